package sim

import (
	"slices"
	"time"

	"github.com/quarryfs/quarry/sim/frame"
)

// What a network does to single requests and messages. TCP loses and doubles nothing, but what
// is sent over it comes twice when a client repeats a request whose answer was lost with its
// connection, and comes late; a message of Raft, which nobody answers, is lost with it. To see
// that often, without a connection that breaks each time, the frames of a piece are looked at: some requests are given again to the server, under
// another id, some time later; some messages are lost, doubled or held back.

// stashMax bounds the bytes of a connection that are held back.
const stashMax = 1 << 20

// later has a frame set out once more after d, if the connection still is there; mu is held.
func (p *pipe) later(f []byte, d time.Duration) {
	p.old += len(f)
	p.n.w.schedule(p.n.w.Now().Add(d), mix("old", p.key, p.doubled), nil, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.old -= len(f)
		if p.sendErr == nil && !p.broken {
			p.taken += len(f)
			p.setOut(p.n.link(p.direction), f)
		}
	})
}

// meddle returns what arrives instead of a piece; mu is held.
func (p *pipe) meddle(l Link, piece []byte) []byte {
	list, whole := frame.Cut(piece)
	if !whole {
		p.broken = true // from here on it is not known where frames begin
	}
	if p.broken {
		return piece
	}
	out := make([]byte, 0, len(piece)+len(p.stash))
	late := p.stash
	p.stash = nil
	r := p.n.w.chance("frames", p.key, uint64(p.sent))
	for _, f := range list {
		kind := frame.Kind(f)
		x := r.Float64()
		switch {
		case kind == frame.Message && x < l.Drop:
			p.n.log.Count("message lost")
			continue
		case kind == frame.Message && x < l.Drop+l.Late && len(p.stash)+len(f) < stashMax:
			p.n.log.Count("message late")
			p.stash = append(p.stash, f...)
			continue
		case kind == frame.Message && x < l.Drop+l.Late+l.Twice && len(p.stash)+len(f) < stashMax:
			p.n.log.Count("message twice")
			p.stash = append(p.stash, f...)
		case kind == frame.Request && x < l.Twice && len(p.stash)+len(f) < stashMax:
			p.n.log.Count("request twice")
			p.doubled++
			if copied := frame.Again(f, p.doubled); r.IntN(2) == 0 {
				f = append(slices.Clone(f), copied...)
			} else {
				p.stash = append(p.stash, copied...)
			}
		}
		if kind == frame.Request && r.Float64() < l.Old && p.old+len(f) < stashMax {
			p.n.log.Count("request again, seconds later")
			p.doubled++
			p.later(frame.Again(f, p.doubled), time.Duration(300+r.IntN(14000))*time.Millisecond)
		}
		out = append(out, f...)
	}
	return append(out, late...)
}
