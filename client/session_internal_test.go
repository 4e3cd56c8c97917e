package client

import (
	"testing"

	"github.com/quarryfs/quarry"
)

// A session remembers the sequences of a bounded number of files.
func TestSessionBoundsItsStreams(t *testing.T) {
	f := New(nil, nil, Options{})
	defer f.Close()
	n := &session{f: f, id: 1, streams: map[quarry.Inode]*stream{}}
	for i := range quarry.Inode(streamsMax) {
		if n.stream(i+1, "") == nil {
			t.Fatalf("no stream for file %d", i+1)
		}
	}
	if n.stream(streamsMax+1, "") != nil {
		t.Error("there is a stream beyond the bound")
	}
	if n.stream(5, "") != n.streams[5] || n.users != streamsMax+1 {
		t.Errorf("a stream is not shared, or its %d users are not counted", n.users)
	}
}
