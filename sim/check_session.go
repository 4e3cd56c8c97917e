package sim

import (
	"context"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/master"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/sim/newest"
)

// A session lives for as long as its client keeps it alive, by the log's time and by no other,
// and what has ended does nothing any more: what its operations did can no longer be told, so
// one that comes again would be done again.

// seenSession is what has been seen of a session.
type seenSession struct {
	alive  clock.Instant  // when a sign of life came that was answered
	life   time.Duration  // how long it lives from then on
	closed bool           // by its client
	ended  moment         // when it was first seen that it is not known any more; 0: never
	shard  quarry.ShardID // in whose state it was seen
	held   uint64         // the last entry of that shard's log at which it was
}

func (o *observer) session(id quarry.SessionID) *seenSession {
	s := o.sessions[id]
	if s == nil {
		s = &seenSession{}
		o.sessions[id] = s
	}
	return s
}

// sessionKept notes that a session was opened or kept alive by a request that came at an instant.
func (o *observer) sessionKept(from moment, came clock.Instant, reply *quarry.SessionReply) {
	o.sessionActs(from, reply.Session)
	s := o.session(reply.Session)
	s.alive, s.life = max(s.alive, came), time.Duration(reply.ExpiryMS)*time.Millisecond
}

// sessionActs judges that a session for which something was done has not ended before.
func (o *observer) sessionActs(from moment, id quarry.SessionID) {
	if s := o.session(id); s.ended != 0 && s.ended < from {
		o.violated("sessions end once", "something is done for session %d, which had ended", id)
	}
}

// sessionGone judges and notes that a session is said not to be known any more.
func (o *observer) sessionGone(id quarry.SessionID) {
	s := o.session(id)
	if s.ended == 0 {
		s.ended = o.clock
	}
	since := o.log.w.Now().Sub(s.alive)
	if s.life > 0 && !s.closed && since < s.life*9/10 {
		o.violated("sessions end once", "session %d is not known any more %v after it was kept alive for %v", id, since, s.life)
	}
	o.log.Count("a session has ended without its client")
}

// lookEvery is how often the states of all shards are looked at, in probes.
const lookEvery = 10

// look notes which sessions a master's state of each shard has. One that was there and is not, at
// a later entry of the log, has ended.
func (m *observedMaster) look(real *master.Master, shards int) {
	m.o.mu.Lock()
	var ids []quarry.SessionID
	for id, s := range m.o.sessions {
		if s.ended == 0 {
			ids = append(ids, id)
		}
	}
	m.o.mu.Unlock()
	there := map[quarry.SessionID]bool{}
	for shard := quarry.ShardID(1); int(shard) <= shards; shard++ {
		clear(there)
		applied, err := real.Look(shard, func(v meta.View) error {
			for _, id := range ids {
				r, err := meta.Session(v, id)
				if quarry.KindOf(err) != quarry.WrongShard { // it is kept elsewhere
					there[id] = err == nil && r.OpenedNS != 0
				}
			}
			return nil
		})
		if err != nil {
			continue
		}
		m.o.end(m.p, func() {
			for id, known := range there {
				m.o.session(id).seen(m.o.clock, shard, applied, known)
			}
		})
	}
}

// seen notes that at an entry of a shard's log the session is there, or is not.
func (s *seenSession) seen(at moment, shard quarry.ShardID, applied uint64, known bool) {
	switch {
	case known && s.shard != shard:
		s.shard, s.held = shard, applied // its slot has moved, or this state is an old one
	case known:
		s.held = max(s.held, applied)
	case s.ended == 0 && s.shard == shard && applied > s.held:
		s.ended = at
	}
}

func (m *observedMaster) Session(ctx context.Context, req *quarry.SessionRequest) (*quarry.SessionReply, error) {
	from, came := m.o.begin(), m.p.host.w.Now()
	m.o.end(m.p, func() {
		if req.Close {
			m.o.session(req.Session).closed = true
		}
	})
	reply, err := m.Master.Session(ctx, req)
	m.o.end(m.p, func() {
		switch {
		case err == nil && !req.Close:
			m.o.sessionKept(from, came, reply)
		case quarry.KindOf(err) == quarry.SessionExpired:
			m.o.sessionGone(req.Session)
		}
	})
	return reply, err
}

// change has a change of names done, judges its session, and notes what becomes of the names;
// the last of them is made by it.
func (m *observedMaster) change(op *quarry.Op, do func() error, names ...newest.Place) {
	from, last := m.o.begin(), m.o.names.Touch(names...)
	err := do()
	m.o.end(m.p, func() {
		switch quarry.KindOf(err) {
		case 0:
			m.o.sessionActs(from, op.Session)
		case quarry.SessionExpired:
			m.o.sessionGone(op.Session)
		}
		m.o.names.Settle(*op, err, last, names...)
	})
	if err == nil {
		m.o.reached("name changed", m.p, 0)
	}
}

func (m *observedMaster) Make(ctx context.Context, req *quarry.MakeRequest) (reply *quarry.AttrReply, err error) {
	m.change(&req.Op, func() error { reply, err = m.Master.Make(ctx, req); return err }, newest.Place{Dir: req.Parent, Name: req.Name})
	return reply, err
}

func (m *observedMaster) Link(ctx context.Context, req *quarry.LinkRequest) (reply *quarry.AttrReply, err error) {
	m.change(&req.Op, func() error { reply, err = m.Master.Link(ctx, req); return err }, newest.Place{Dir: req.Parent, Name: req.Name})
	return reply, err
}

func (m *observedMaster) Rename(ctx context.Context, req *quarry.RenameRequest) (reply *quarry.AttrReply, err error) {
	m.change(&req.Op, func() error { reply, err = m.Master.Rename(ctx, req); return err },
		newest.Place{Dir: req.Parent, Name: req.Name}, newest.Place{Dir: req.ToParent, Name: req.ToName})
	return reply, err
}

func (m *observedMaster) Remove(ctx context.Context, req *quarry.RemoveRequest) (err error) {
	m.change(&req.Op, func() error { err = m.Master.Remove(ctx, req); return err }, newest.Place{Dir: req.Parent, Name: req.Name}, newest.Place{})
	return err
}

func (m *observedMaster) Undelete(ctx context.Context, req *quarry.UndeleteRequest) (reply *quarry.AttrReply, err error) {
	m.change(&req.Op, func() error { reply, err = m.Master.Undelete(ctx, req); return err }, newest.Place{Dir: req.Parent, Name: req.Name})
	m.o.end(m.p, func() { m.o.count("undelete", err) })
	return reply, err
}

func (m *observedMaster) SetAttr(ctx context.Context, req *quarry.SetAttrRequest) (reply *quarry.AttrReply, err error) {
	m.change(&req.Op, func() error { reply, err = m.Master.SetAttr(ctx, req); return err })
	m.o.end(m.p, func() { m.o.count("set attributes", err) })
	return reply, err
}

func (m *observedMaster) Allocate(ctx context.Context, req *quarry.AllocateRequest) (reply *quarry.AllocateReply, err error) {
	from := m.o.begin()
	m.change(&req.Op, func() error { reply, err = m.Master.Allocate(ctx, req); return err })
	m.o.end(m.p, func() {
		if err == nil {
			for i := range reply.Chunks {
				m.o.told(from, &reply.Chunks[i])
			}
		}
	})
	return reply, err
}
