package chunks

import (
	"context"
	"maps"
	"sync"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/meta/slots"
)

// handlesStep is how many handles one log entry reserves. Those that a leader leaves unused
// are lost, which 52 bits can bear.
const handlesStep = 4096

// handles gives out the handle numbers that the log has reserved for this term. A number is
// given out once, whatever becomes of it, and only in slots that the shard owned when it had
// reserved it: whoever has such a slot later numbers its chunks from beyond the range, and
// whoever had it before has numbered them below. In any other slot another shard may have a
// chunk of that handle, which a CREATE, and the DROP of who gives it up, would reach.
type handles struct {
	l       *Leader
	reserve chan struct{} // holds a value while somebody reserves

	mu        sync.Mutex
	next, end uint64
	owned     []quarry.SlotRange     // in which the numbers may be used
	making    map[quarry.Handle]bool // given out, and neither logged nor given up
}

func (h *handles) init(l *Leader) {
	h.l, h.reserve, h.making = l, make(chan struct{}, 1), map[quarry.Handle]bool{}
}

// take returns a handle that was never used, in a slot. WrongShard: the shard does not own it.
func (h *handles) take(ctx context.Context, slot quarry.Slot) (quarry.Handle, error) {
	for {
		if handle, ok := h.pop(slot); ok {
			return handle, nil
		}
		err := h.alone(ctx, func() error {
			if h.has(slot) {
				return nil
			}
			err := h.l.Log.View(func(v meta.View) error { return meta.Owned(v, slot, slot) })
			if err != nil {
				return err
			}
			return h.fill(ctx)
		})
		if err != nil {
			return 0, err
		}
	}
}

// ready returns when there are handles to be given out, and this term has reserved some.
func (h *handles) ready(ctx context.Context) error {
	return h.alone(ctx, func() error {
		if !h.empty() {
			return nil
		}
		return h.fill(ctx)
	})
}

// alone calls f while nobody else reserves.
func (h *handles) alone(ctx context.Context, f func() error) error {
	select {
	case h.reserve <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-h.reserve }()
	return quarry.Wrap("reserve handles", "", f())
}

func (h *handles) empty() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.next == h.end
}

// has reports whether there are numbers that a slot may have.
func (h *handles) has(slot quarry.Slot) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.hasLocked(slot)
}

func (h *handles) hasLocked(slot quarry.Slot) bool {
	return h.next < h.end && (slots.Has(h.owned, slot) || off(NumbersInAnySlot))
}

func (h *handles) pop(slot quarry.Slot) (quarry.Handle, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.hasLocked(slot) {
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

// fill reserves more handles, for the slots that the shard owns then. Those that are left are
// given up.
func (h *handles) fill(ctx context.Context) error {
	r, err := h.l.propose(ctx, &meta.ReserveHandles{Term: h.l.Term, Count: handlesStep})
	if err != nil {
		return err
	}
	var owned []quarry.SlotRange
	var floor uint64
	err = h.l.Log.View(func(v meta.View) error {
		owned, floor = meta.Slots(v), meta.MovingOf(v).HandleFloor
		return nil
	})
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next, h.end, h.owned = r.Range.First, r.Range.First+r.Range.Count, owned
	if h.next < floor { // slots have come since the reservation
		h.next = h.end
	}
	return nil
}
