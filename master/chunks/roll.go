package chunks

import (
	"context"
	"errors"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

const (
	// rollTriesMax is how many chunks are opened in turn until one has an active primary.
	rollTriesMax = 4
	// rollFor bounds one roll. Its seal, which may wait for members to come back, goes on.
	rollFor = time.Minute
	// slowAgain is the time in which a file's tail is ended once because of a slow member, and slowAtOnce
	// how often it is without waiting if that has not been for long: disks may fail together.
	slowAgain  = 10 * time.Second
	slowAtOnce = 2
	// slowPoll is how often a roll that waits for that time looks at the members again.
	slowPoll = 100 * time.Millisecond
)

// Roll returns the file's open tail. If there is none, because the last chunk is sealed and has
// room, that chunk is opened again; if the tail is the chunk which the writer cannot use any
// more, or the last one will not do, a chunk is made behind it. Either happens once for all who
// ask at the same time.
//
// Errors: those of the file and the session; Corrupt: the file's last chunk is lost; NoSpace;
// Unavailable: no chunk server can take a chunk, or members of the tail are needed and
// silent; Busy; NotLeader; Unknown: it was cut off, the same again finds what was done.
func (l *Leader) Roll(ctx context.Context, req *quarry.RollRequest) (*quarry.RollReply, error) {
	host := callerOf(ctx)
	for range rollTriesMax {
		tail, err := l.tail(ctx, req)
		if err != nil {
			return nil, quarry.Wrap("roll", "", err)
		}
		if usable(tail, req) && l.activate(ctx, tail.Chunk) == nil {
			return l.rolled(tail), nil
		}
		if ctx.Err() != nil {
			return nil, quarry.Wrap("roll", "", ctx.Err())
		}
		job, _, err := l.rolls.start(req.File, func(ctx context.Context) (*meta.Result, error) {
			return l.roll(ctx, req, tail, host)
		})
		if err != nil {
			return nil, err
		}
		if tail, err = job.wait(ctx); err != nil {
			return nil, quarry.Wrap("roll", "", err)
		}
		if usable(tail, req) {
			return l.rolled(tail), nil
		}
	}
	return nil, quarry.Errorf("roll", quarry.Busy, req.File.String(), "others end the file's tail as fast as it is made")
}

// tail returns the file's end.
func (l *Leader) tail(ctx context.Context, req *quarry.RollRequest) (*meta.Result, error) {
	if err := l.Log.Confirm(ctx); err != nil {
		return nil, err
	}
	var tail meta.Result
	err := l.Log.View(func(v meta.View) (err error) {
		if req.Session != 0 {
			// A session that lives at another shard, because slots have moved since its appender
			// began, is kept alive there; its client gives up by itself when it is over.
			if err := sessionIn(v, req.Session); err != nil && !errors.Is(err, quarry.WrongShard) {
				return err
			}
		}
		tail, err = meta.Tail(v, req.File)
		return err
	})
	return &tail, err
}

// usable reports whether a file's end is an open tail that the writer has not given up.
func usable(tail *meta.Result, req *quarry.RollRequest) bool {
	c := tail.Chunk
	if !tail.Attr.Open || c == nil || c.State != quarry.ChunkOpen {
		return false
	}
	return c.Handle != req.Last || req.Version != 0 && req.Version < c.Version
}

func (l *Leader) rolled(tail *meta.Result) *quarry.RollReply {
	return &quarry.RollReply{
		Attr: tail.Attr, Piece: tail.Piece,
		Chunk: l.Describe(tail.Chunk, quarry.RightRead|quarry.RightAppend),
	}
}

// roll ends the tail, if it is open, and opens the next chunk, or the last one again.
func (l *Leader) roll(ctx context.Context, req *quarry.RollRequest, tail *meta.Result, host string) (*meta.Result, error) {
	ctx, cancel := l.Clock.WithTimeout(ctx, rollFor)
	defer cancel()
	if tail.Attr.Open && tail.Chunk.State == quarry.ChunkOpen {
		if err := l.bear(ctx, tail.Chunk, req.Suspects); err != nil {
			return nil, err
		}
	}
	p := &plan{slot: req.File.Slot(), file: req.File, hint: req.Hint, host: host}
	var failure error
	age := l.ageOf(tail)
	anew := len(req.Suspects) > 0 // or the writer itself has given the tail up
	for range rollTriesMax {
		if tail.Attr.Open {
			var err error
			anew = anew || tail.Chunk.State == quarry.ChunkOpen
			if tail, err = l.endTail(ctx, req.File, tail.Chunk); err != nil {
				return nil, err
			}
		}
		p.position = tail.Attr.Length
		next, err := l.nextTail(ctx, p, tail, anew)
		if err != nil {
			return nil, err
		}
		if tail = next; !tail.Attr.Open {
			continue // another chunk had come, and gone again
		}
		if failure = l.activate(ctx, tail.Chunk); failure == nil {
			l.opened(req, tail, p, age)
			return tail, nil
		}
		l.Logger.Warn("the primary of a chunk did not take its role", "chunk", tail.Chunk.Handle, "error", failure)
		if p.not == nil {
			p.not = map[quarry.ServerID]bool{}
		}
		p.not[tail.Chunk.Replicas[0].Server] = true
	}
	if failure == nil {
		failure = quarry.Errorf("open", quarry.Busy, req.File.String(), "others end the file's tail as fast as it is made")
	}
	return nil, failure
}

// opened does what is not urgent once a roll has opened a file's tail, in the place of one that ended
// at an age; 0: nobody knows, or there was none. The run of small pieces that a chunk ended here makes
// longer is looked at when its replicas hold the seal.
func (l *Leader) opened(req *quarry.RollRequest, tail *meta.Result, p *plan, age time.Duration) {
	if tail.Chunk.Version != 1 {
		return
	}
	if age == 0 {
		l.considerMerge(req.File)
	}
	if len(req.Suspects) == 0 {
		l.orderSpare(p, age)
	}
}

// endTail seals the open tail and returns the file's end after that.
func (l *Leader) endTail(ctx context.Context, file quarry.Inode, c *meta.ChunkRecord) (*meta.Result, error) {
	if c.State == quarry.ChunkLost {
		return nil, quarry.Errorf("seal", quarry.Corrupt, c.Handle.String(), "every replica of the file's last chunk is lost")
	}
	if _, err := l.seal(ctx, c.Handle, c.WritableVersion, "roll"); err != nil {
		return nil, err
	}
	var tail meta.Result
	err := l.Log.View(func(v meta.View) (err error) {
		tail, err = meta.Tail(v, file)
		return err
	})
	return &tail, err
}

// nextTail opens the last chunk again, if it may be and need not be a new one, or else makes one.
func (l *Leader) nextTail(ctx context.Context, p *plan, tail *meta.Result, anew bool) (*meta.Result, error) {
	if !anew {
		if next, err := l.reopenTail(ctx, p, tail); next != nil || err != nil {
			return next, err
		}
	}
	return l.openTail(ctx, p, tail)
}

// openTail makes a chunk and logs it behind the last piece, and returns the file's end: if
// another chunk has come there, that one.
func (l *Leader) openTail(ctx context.Context, p *plan, tail *meta.Result) (*meta.Result, error) {
	m := l.spares.take(p)
	if m == nil {
		var err error
		if m, err = l.create(ctx, p); err != nil {
			return nil, err
		}
	}
	body := &meta.OpenTail{File: p.file, Chunk: m.entry(l.Copies)}
	if tail.Chunk != nil {
		body.Last, body.Version = tail.Chunk.Handle, tail.Chunk.Version
	}
	r, err := l.apply(ctx, quarry.Op{}, body)
	switch {
	case err != nil && notApplied(err):
		l.giveUp(m)
		return nil, err
	case err != nil:
		return nil, err // the entry may be applied yet: the handle stays in hand
	case r.Err == nil:
		l.handles.settle(m.handle)
		l.Logger.Debug("chunk opened", "chunk", m.handle, "file", p.file, "position", p.position)
		return r, nil
	}
	l.giveUp(m)
	if errors.Is(r.Err, quarry.Exists) || errors.Is(r.Err, quarry.StaleVersion) {
		r.Err = nil
		return r, nil
	}
	return nil, r.Err
}

// suspect notes which servers writers and members complain of, the first the most. Those that are
// silent count alone: a member that names itself as well only cannot tell which of two it is.
func (l *Leader) suspect(list []quarry.Suspect) {
	list = list[:min(len(list), quarry.ReplicasMax)]
	alive := l.allAlive(list)
	for i, s := range list {
		if alive || !l.allAlive(list[i:i+1]) {
			l.roster.complain(s.Server, s.Incarnation, suspectFor-time.Duration(i)*time.Millisecond)
		}
	}
}

// bear waits, before a tail is ended because of members that are alive, until it is the file's turn or one
// of them turns out to be silent. So a server that is merely slow cannot cut a file into crumbs. Each time
// moves the file's turn slowAgain into the future; it may come slowAtOnce-1 of them early (a virtual
// scheduling algorithm, ITU-T I.371).
func (l *Leader) bear(ctx context.Context, c *meta.ChunkRecord, suspects []quarry.Suspect) error {
	l.suspect(suspects)
	for {
		now := l.Clock.Now()
		if len(suspects) == 0 || !l.allAlive(suspects) {
			return nil
		}
		l.mu.Lock()
		turn := max(l.slow[c.File], now)
		if turn.Sub(now) <= (slowAtOnce-1)*slowAgain {
			if len(l.slow) >= slowMax {
				for f, at := range l.slow {
					if at <= now {
						delete(l.slow, f)
					}
				}
			}
			if len(l.slow) < slowMax {
				l.slow[c.File] = turn.Add(slowAgain)
			}
			l.mu.Unlock()
			return nil
		}
		l.mu.Unlock()
		if err := l.Clock.Sleep(ctx, slowPoll); err != nil {
			return err
		}
		if rec, err := l.lookup(c.Handle); err != nil || rec.State != quarry.ChunkOpen {
			return nil //nolint:nilerr // whatever it is, the tail has ended
		}
	}
}

// allAlive reports whether each suspect has been heard of within a second.
func (l *Leader) allAlive(suspects []quarry.Suspect) bool {
	for _, s := range suspects {
		if !l.roster.alive(s.Server, s.Incarnation, replySilence) {
			return false
		}
	}
	return true
}
