package client

import (
	"testing"
	"time"
)

// Of several files that had a name the one comes back that was removed last, wherever it stands.
func TestNewestRemoved(t *testing.T) {
	n := newest{}
	for i, at := range []int64{2, 5, 3, 5, 4} {
		n.add(Removed{Path: "/f", Removed: time.Unix(at, 0), Size: int64(i)})
		n.add(Removed{Path: "/g", Removed: time.Unix(at, 0).Add(-time.Hour), Size: int64(i)})
	}
	if len(n) != 2 || n["/f"].Size != 3 || n["/g"].Size != 3 {
		t.Errorf("the last ones are %+v", n)
	}
}
