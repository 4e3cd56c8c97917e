package chunks

import (
	"context"
	"slices"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

// allocateMax is the most chunks that one Allocate opens.
const allocateMax = 64

// Allocate opens chunks that belong to the session until they are linked. The same request
// again answers with the chunks of the first one, whatever has become of them. A chunk whose
// primary does not take its role is among them; the writer finds that out, finishes it and
// allocates another.
//
// Errors: SessionExpired, Invalid, NoSpace, Unavailable, Busy, NotLeader, Unknown; WrongShard: the
// chunks would belong to another shard. Then none were made by this request, but those of the same
// one before may be there, and have moved; they are freed with the session.
func (l *Leader) Allocate(ctx context.Context, req *quarry.AllocateRequest) (*quarry.AllocateReply, error) {
	if req.Count < 1 || req.Count > allocateMax {
		return nil, quarry.Errorf("allocate", quarry.Invalid, "", "%d chunks; from 1 to %d can be allocated", req.Count, allocateMax)
	}
	if err := l.checkSession(ctx, req.Session); err != nil {
		return nil, quarry.Wrap("allocate", "", err)
	}
	list, err := l.createMany(ctx, req, callerOf(ctx))
	if err != nil {
		return nil, quarry.Wrap("allocate", "", err)
	}
	body := &meta.OpenOwned{Owner: req.Owner}
	for _, m := range list {
		body.Chunks = append(body.Chunks, m.entry(l.Copies))
	}
	// The outcome is waited for though the caller may give up: it says which of the handles
	// are taken.
	r, err := l.apply(l.ctx, req.Op, body)
	if err == nil {
		err = r.Err
	}
	switch {
	case r != nil:
		l.release(list, r.Handles)
	case notApplied(err):
		l.release(list, nil)
	}
	if err != nil {
		return nil, quarry.Wrap("allocate", "", err)
	}
	return l.allocated(ctx, r.Handles)
}

// allocated activates the chunks and returns them as they are.
func (l *Leader) allocated(ctx context.Context, list []quarry.Handle) (*quarry.AllocateReply, error) {
	reply := &quarry.AllocateReply{Chunks: make([]quarry.Chunk, len(list))}
	errs := parallel(len(list), func(i int) error {
		rec, err := l.lookup(list[i])
		if err != nil {
			return err
		}
		if rec.State == quarry.ChunkOpen {
			if err := l.activate(ctx, rec); err != nil {
				l.Logger.Warn("the primary of a chunk did not take its role", "chunk", rec.Handle, "error", err)
			}
		}
		reply.Chunks[i] = l.Describe(rec, quarry.RightRead|quarry.RightAppend)
		return nil
	})
	for _, err := range errs {
		if err != nil {
			return nil, quarry.Wrap("allocate", "", err)
		}
	}
	return reply, nil
}

// checkSession returns SessionExpired, or WrongShard, unless a session is known.
func (l *Leader) checkSession(ctx context.Context, id quarry.SessionID) error {
	if err := l.Log.Confirm(ctx); err != nil {
		return err
	}
	return l.Log.View(func(v meta.View) error { return sessionIn(v, id) })
}

func sessionIn(v meta.View, id quarry.SessionID) error {
	_, err := meta.Session(v, id)
	return err
}

// createMany makes the replicas of all chunks of a request, or gives up all of them.
func (l *Leader) createMany(ctx context.Context, req *quarry.AllocateRequest, host string) ([]*made, error) {
	list := make([]*made, req.Count)
	errs := parallel(req.Count, func(i int) (err error) {
		list[i], err = l.create(ctx, &plan{slot: req.Near.Slot(), hint: req.Hint, host: host})
		return err
	})
	for _, err := range errs {
		if err != nil {
			l.release(list, nil)
			return nil, err
		}
	}
	return list, nil
}

// release ends the making of chunks: those that were logged are settled, the others given
// up.
func (l *Leader) release(list []*made, logged []quarry.Handle) {
	for _, m := range list {
		switch {
		case m == nil:
		case slices.Contains(logged, m.handle):
			l.handles.settle(m.handle)
		default:
			l.giveUp(m)
		}
	}
}

// Finish seals a chunk that the session owns and returns it sealed, when its replicas have
// confirmed the seal or had a second for it. A chunk that is sealed already is returned as
// it is.
//
// Errors: NotFound: the session owns no such chunk; StaleVersion: it is open at another
// version; Corrupt: it is lost; Unavailable, Busy, NotLeader.
func (l *Leader) Finish(ctx context.Context, req *quarry.FinishRequest) (*quarry.ChunkReply, error) {
	if err := l.Log.Confirm(ctx); err != nil {
		return nil, quarry.Wrap("finish", "", err)
	}
	rec, err := l.lookup(req.Handle)
	switch {
	case err != nil:
		return nil, quarry.Wrap("finish", "", err)
	case rec.Owner != req.Session || req.Session == 0:
		if rec.State == quarry.ChunkSealed && rec.Linked {
			break // the session has linked it since
		}
		return nil, quarry.Errorf("finish", quarry.NotFound, req.Handle.String(), "the session owns no such chunk")
	case rec.State == quarry.ChunkOpen && req.Version != rec.Version:
		return nil, quarry.Errorf("finish", quarry.StaleVersion, req.Handle.String(), "the chunk is open at version %d", rec.Version)
	}
	l.suspect(req.Suspects)
	if rec.State == quarry.ChunkOpen || rec.State == quarry.ChunkSealing {
		if rec, err = l.seal(ctx, req.Handle, rec.WritableVersion, "finish"); err != nil {
			return nil, quarry.Wrap("finish", "", err)
		}
		if rec, err = l.settledOf(ctx, rec); err != nil {
			return nil, quarry.Wrap("finish", "", err)
		}
	}
	if rec.State == quarry.ChunkLost {
		return nil, quarry.Errorf("finish", quarry.Corrupt, req.Handle.String(), "every replica of the chunk is lost")
	}
	return &quarry.ChunkReply{Chunk: l.Describe(rec, quarry.RightRead)}, nil
}

// settledOf returns the record of a chunk that has just been sealed when its replicas have
// been told, or after a second.
func (l *Leader) settledOf(ctx context.Context, rec *meta.ChunkRecord) (*meta.ChunkRecord, error) {
	job, _, err := l.settles.start(rec.Handle, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, l.settle(ctx, rec.Handle)
	})
	if err != nil {
		return rec, nil //nolint:nilerr // it is sealed; who holds it is told later
	}
	ctx, cancel := l.timeout(ctx)
	defer cancel()
	_, _ = job.wait(ctx)
	return l.lookup(rec.Handle)
}
