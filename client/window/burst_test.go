package window

import (
	"testing"
	"time"
)

// TestBursts: segments that come together are as many as the latency asks for; the reader waits for
// the first of them only, and the window stays open.
func TestBursts(t *testing.T) {
	w := Window{Most: 8}
	w.Limit(w.Most)
	for range 20 {
		for i := range w.Size() {
			w.Used(10*time.Millisecond, i == 0, w.Most)
		}
	}
	if w.Size() != w.Most {
		t.Errorf("a window of %d, %d are of use", w.Size(), w.Most)
	}
}
