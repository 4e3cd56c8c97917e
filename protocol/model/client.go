package model

import (
	"slices"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/protocol"
)

// client is a session: what its runtime would be.
type client struct {
	id      uint8
	app     *protocol.Appender
	started uint8
	dead    bool
	need    *protocol.NeedTail
	before  [maxSeq + 1]uint32 // records acknowledged before each one began
}

func (c *client) clone() *client {
	if c == nil {
		return nil
	}
	d := *c
	d.app = c.app.Clone()
	return &d
}

// do carries out what an appender wants; fates are asked at server.
func (w *world) do(c *client, effects []protocol.Effect, server uint8) {
	for _, e := range effects {
		switch e := e.(type) {
		case protocol.Send:
			m := w.m.chunks[chunkOf(e.Handle)].members[0]
			b := &appendMsg{oldest: e.Oldest}
			b.ref = quarry.ChunkRef{Handle: e.Handle, Version: e.Version, Target: m.Incarnation}
			b.header = quarry.RecordHeader{Session: quarry.SessionID(c.id + 1), Sequence: e.Sequence, Length: e.Length}
			w.send(memberNode(m), b)
		case protocol.NeedTail:
			c.need = &e
		case protocol.AskFate:
			req := quarry.FateRequest{Length: e.Length, Session: quarry.SessionID(c.id + 1), Sequences: e.Sequences}
			req.Handle, req.Version = e.Handle, e.Version
			w.send(node{atServer, server, w.m.incs[server]}, &fateMsg{c.id, req})
		case protocol.Settled:
			w.acknowledged(c, e)
		case protocol.Unknown:
			c.dead = true
			w.note("unknown %s", name(record(quarry.SessionID(c.id+1), e.Sequence)))
		}
	}
}

// start gives the client its next record.
func (w *world) start(c *client) {
	c.started++
	c.before[c.started] = w.g.acked
	_, effects, err := c.app.Add(w.cfg.length)
	if err != nil {
		bad("client %d: %v", c.id, err)
	}
	w.do(c, effects, 0)
}

// tail answers the client's ROLL: with the open tail, or by sealing it if it is the chunk
// that the client cannot write to.
func (w *world) tail(c *client) {
	k, ch := w.m.tail()
	if c.need.Last == handleOf(k) && c.need.Version >= ch.writable {
		w.beginSeal(k)
		return
	}
	c.need = nil
	w.do(c, c.app.Tail(&quarry.Chunk{Handle: handleOf(k), State: quarry.ChunkOpen, Version: ch.version(), Members: ch.members}), 0)
}

// learn asks the master for the chunk and then a replica on server for the fates of what
// is not settled there.
func (w *world) learn(c *client, k, server uint8) {
	ch := &w.m.chunks[k]
	told := &quarry.Chunk{Handle: handleOf(k), Version: ch.version(), Length: ch.length, State: quarry.ChunkOpen}
	switch ch.state {
	case sealed:
		told.State = quarry.ChunkSealed
	case sealing:
		told.State = quarry.ChunkSealing
		if off(protocol.FateBeforeSeal) {
			told.State, told.Length = quarry.ChunkSealed, -1
		}
	}
	w.do(c, c.app.Located(told), server)
}

func (w *world) atClient(c *client, body any) {
	switch b := body.(type) {
	case *appendedMsg:
		if b.kind != 0 {
			w.do(c, c.app.Answered(b.seq, b.handle, b.version, nil, b.kind), 0)
			return
		}
		w.do(c, c.app.Answered(b.seq, b.handle, b.version, &quarry.AppendReply{Offset: b.offset}, nil), 0)
	case *fatesMsg:
		w.do(c, c.app.Fates(b.handle, &b.reply), 0)
	}
}

// acknowledged checks a settled record against all that was said before.
func (w *world) acknowledged(c *client, e protocol.Settled) {
	k := chunkOf(e.Handle)
	r := record(quarry.SessionID(c.id+1), e.Sequence)
	pos := k<<5 + uint8(e.Offset/w.cfg.length) + 1
	at := w.filePos(pos)
	for o := range uint8(32) {
		if bit(c.before[e.Sequence], o) && w.g.pos[o] != 0 && w.filePos(w.g.pos[o]) >= at {
			bad("record %s acked at %d, not after %s, acked before it began", name(r), at, name(o))
		}
		if o != r && w.g.pos[o] == pos {
			bad("records %s and %s acked at one place", name(o), name(r))
		}
	}
	w.g.pos[r] = pos
	w.g.acked |= 1 << r
	w.note("settled %s in chunk %d at %d", name(r), e.Handle, e.Offset)
}

// filePos orders places by where they are in the file.
func (w *world) filePos(pos uint8) int {
	i := slices.Index(w.m.file, (pos-1)>>5)
	if i < 0 {
		bad("acked in a chunk that is not in the file")
	}
	return i<<5 | int(pos-1)&31
}

// reader reads the whole file now and then, with a layout from the master or a cached one.
type reader struct {
	on      bool
	chunk   uint8
	version quarry.Version
	gen     uint8
	mask    uint32 // records acknowledged before the read began
	floor   []recID
	prefix  []recID
	chunks  uint8 // the cached layout: how many chunks, and the version of the last one
}

// content is a sealed chunk's content from any replica that serves it.
func (w *world) content(k uint8) ([]recID, bool) {
	n := w.m.chunks[k].length
	if n == 0 {
		return nil, true
	}
	for i := range w.cfg.servers {
		m := w.servers[i].members[k]
		if m == nil {
			continue
		}
		got, err := m.Read(&quarry.ReadRequest{Offset: n - 1, Length: 1})
		if err == nil && got == 1 {
			return contentOf(&m.Replica().Records, n), true
		}
	}
	return nil, false
}

func (w *world) startRead(cached bool) {
	w.left.reads--
	r := &w.rd
	r.gen++
	r.on, r.mask, r.floor, r.prefix = true, w.g.acked, slices.Clone(w.g.long), nil
	r.chunk = 255
	if !cached {
		w.readFresh()
		return
	}
	for _, k := range w.m.file[:r.chunks-1] { // these are final, the last one is believed open
		x, ok := w.content(k)
		if !ok {
			r.on = false
			return
		}
		r.prefix = append(r.prefix, x...)
	}
	w.askEnd(w.m.file[r.chunks-1], r.version)
}

// readFresh asks the master for the layout; its answer ends the read if there is no open tail.
func (w *world) readFresh() {
	if w.m.barrier {
		return
	}
	var prefix []recID
	for i, k := range w.m.file {
		c := &w.m.chunks[k]
		switch c.state {
		case sealed:
			x, ok := w.content(k)
			if !ok {
				return
			}
			prefix = append(prefix, x...)
		case open:
			w.rd.prefix, w.rd.chunks = prefix, uint8(i+1)
			w.askEnd(k, c.writable)
			return
		default:
			return
		}
	}
	w.finishRead(prefix)
}

func (w *world) askEnd(k uint8, v quarry.Version) {
	w.rd.chunk, w.rd.version = k, v
	for i, m := range w.m.chunks[k].members {
		if i == 0 || off(protocol.SecondaryAnswersEnd) {
			b := &endMsg{gen: w.rd.gen}
			b.req.ChunkRef = quarry.ChunkRef{Handle: handleOf(k), Version: v, Target: m.Incarnation}
			w.send(memberNode(m), b)
		}
	}
}

// atReader is the answer to END. One without a lease counts only if the master says, after
// it, that the chunk is still open at the version.
func (w *world) atReader(b *endedMsg) {
	r := &w.rd
	k := chunkOf(b.handle)
	if !r.on || r.chunk != k || r.gen != b.gen || b.version != r.version {
		return
	}
	if b.confirm && (w.m.barrier || w.m.chunks[k].state != open || w.m.chunks[k].writable != b.version) && !off(ConfirmSkipped) {
		return
	}
	w.finishRead(append(slices.Clone(r.prefix), b.content...))
}

func (w *world) finishRead(res []recID) {
	r := &w.rd
	r.on = false
	w.note("read %v", names(res))
	var seen uint32
	for _, x := range res {
		if x != 0 && bit(seen, x) {
			bad("record %s twice in %v", name(x), names(res))
		}
		seen |= 1 << x
	}
	forgotten := slices.Contains(res, 0)
	for x := range uint8(32) {
		if bit(r.mask, x) && !bit(seen, x) && !forgotten {
			bad("record %s was acked before the read began, missing from %v", name(x), names(res))
		}
	}
	if !prefixOf(r.floor, res) {
		bad("the file became shorter: %v then %v", names(r.floor), names(res))
	}
	if !prefixOf(w.g.long, res) && !prefixOf(res, w.g.long) {
		bad("reads diverge: %v and %v", names(w.g.long), names(res))
	}
	if len(res) > len(w.g.long) {
		w.g.long = res
	}
}

// same reports whether two places may hold the same record; 0 is one whose session a
// replica has forgotten.
func same(a, b recID) bool { return a == b || a == 0 || b == 0 }

func prefixOf(a, b []recID) bool {
	if len(a) > len(b) {
		return false
	}
	for i := range a {
		if !same(a[i], b[i]) {
			return false
		}
	}
	return true
}
