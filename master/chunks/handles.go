package chunks

import (
	"context"
	"maps"
	"sync"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

// handlesStep is how many handles one log entry reserves. Those that a leader leaves unused
// are lost, which 52 bits can bear.
const handlesStep = 4096

// handles gives out the handle numbers that the log has reserved for this term. A number is
// given out once, whatever becomes of it.
type handles struct {
	l       *Leader
	reserve chan struct{} // holds a value while somebody reserves

	mu        sync.Mutex
	next, end uint64
	making    map[quarry.Handle]bool // given out, and neither logged nor given up
}

func (h *handles) init(l *Leader) {
	h.l, h.reserve, h.making = l, make(chan struct{}, 1), map[quarry.Handle]bool{}
}

// take returns a handle that was never used, in a slot.
func (h *handles) take(ctx context.Context, slot quarry.Slot) (quarry.Handle, error) {
	for {
		if handle, ok := h.pop(slot); ok {
			return handle, nil
		}
		if err := h.ready(ctx); err != nil {
			return 0, err
		}
	}
}

// ready returns when there are handles to be given out, and this term has reserved some.
func (h *handles) ready(ctx context.Context) error {
	select {
	case h.reserve <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-h.reserve }()
	return quarry.Wrap("reserve handles", "", h.fill(ctx))
}

func (h *handles) pop(slot quarry.Slot) (quarry.Handle, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.next == h.end {
		return 0, false
	}
	handle := quarry.MakeHandle(slot, h.next)
	h.next++
	h.making[handle] = true
	return handle, true
}

// drop gives up the numbers that are left of those that were reserved.
func (h *handles) drop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next = h.end
}

// below gives up the numbers in hand if they are below a floor.
func (h *handles) below(floor uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.next < floor {
		h.next = h.end
	}
}

// settle notes that a handle is logged, or that it never will be and nobody makes replicas
// of it any more. Until then an inventory does not judge it; a handle of which that cannot
// be told stays for as long as this leader.
func (h *handles) settle(handle quarry.Handle) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.making, handle)
}

// inHand returns the handles that are neither logged nor given up.
func (h *handles) inHand() map[quarry.Handle]bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.making)
}

// fill reserves more handles if none are left.
func (h *handles) fill(ctx context.Context) error {
	h.mu.Lock()
	empty := h.next == h.end
	h.mu.Unlock()
	if !empty {
		return nil
	}
	r, err := h.l.propose(ctx, &meta.ReserveHandles{Term: h.l.Term, Count: handlesStep})
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next, h.end = r.Range.First, r.Range.First+r.Range.Count
	return nil
}
