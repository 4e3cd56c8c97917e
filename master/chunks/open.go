package chunks

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/rpc"
)

const (
	// createTriesMax is how many sets of servers are tried for one chunk.
	createTriesMax = 4
	// gatherFor is how long a leader that begins waits for heartbeats before it is content
	// with fewer copies.
	gatherFor = time.Second
)

// plan is a chunk that is to be made.
type plan struct {
	slot     quarry.Slot
	file     quarry.Inode // 0: a session owns it
	position int64        // of its first byte in the file
	hint     string
	host     string                   // of the writer; "" if not known
	not      map[quarry.ServerID]bool // servers that will not do; grows with each failure
}

// made is a chunk that all of its members have made, durably, and that is not logged.
type made struct {
	handle  quarry.Handle
	members []quarry.Member
}

// entry returns the chunk as the log takes it.
func (m *made) entry(copies int) meta.NewChunk {
	c := meta.NewChunk{Handle: m.handle, Wanted: uint8(copies)}
	for _, member := range m.members {
		c.Members = append(c.Members, newMember(member))
	}
	return c
}

func newMember(m quarry.Member) meta.NewMember {
	return meta.NewMember{Server: m.Server, Incarnation: m.Incarnation, Disk: m.Disk}
}

// create makes the replicas of a chunk. A round in which one member fails is given up with
// its handle, and another one is tried on other servers. The chunk is to be logged, or given
// up with giveUp.
func (l *Leader) create(ctx context.Context, p *plan) (*made, error) {
	var failure error
	for range createTriesMax {
		h, err := l.handles.take(ctx, p.slot)
		if err != nil {
			return nil, err
		}
		m, err := l.assign(ctx, p, h)
		if err != nil {
			return nil, cmp.Or(failure, err)
		}
		if failure = l.createAll(ctx, m, p); failure == nil {
			return m, nil
		}
		l.giveUp(m)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, failure
}

// assign chooses the members of a new chunk that is to have a handle; without them it is settled.
func (l *Leader) assign(ctx context.Context, p *plan, h quarry.Handle) (*made, error) {
	members, err := l.choose(ctx, p, h)
	if err != nil {
		l.handles.settle(h)
		return nil, err
	}
	return &made{h, members}, nil
}

// choose returns the members of a new chunk.
func (l *Leader) choose(ctx context.Context, p *plan, h quarry.Handle) ([]quarry.Member, error) {
	for {
		news := l.roster.wait()
		sites := l.roster.sites()
		members := place(sites, wish{handle: h, copies: l.Copies, host: p.host, not: p.not})
		left := gatherFor - l.Clock.Now().Sub(l.roster.elected)
		switch {
		case len(members) < l.Copies && left > 0:
			if err := l.await(ctx, news, left); err != nil {
				return nil, err
			}
			continue
		case len(members) > 0:
			l.roster.took(members)
			return members, nil
		case len(sites) > len(p.not):
			return nil, quarry.Errorf("place", quarry.NoSpace, "", "none of %d chunk servers has room for a chunk: remove files or add disks", len(sites))
		}
		return nil, quarry.Errorf("place", quarry.Unavailable, "", "%d chunk servers are alive, %d of them have just failed", len(sites), len(p.not))
	}
}

// await waits until news, or for d.
func (l *Leader) await(ctx context.Context, news <-chan struct{}, d time.Duration) error {
	timer := l.Clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-news:
	case <-timer.C():
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// createAll sends CREATE to all members and returns an error unless all have acknowledged
// it. Servers that have not are added to those that will not do.
func (l *Leader) createAll(ctx context.Context, m *made, p *plan) error {
	errs := parallel(len(m.members), func(i int) error {
		member := m.members[i]
		ctx, cancel := l.longTimeout(ctx)
		defer cancel()
		return l.Servers.Dial(member).Create(ctx, &quarry.CreateRequest{
			ChunkRef: l.ref(m.handle, 1, member.Incarnation), Disk: member.Disk,
			File: p.file, Position: p.position, Hint: p.hint,
		})
	})
	var first error
	for i, err := range errs {
		if err == nil || off(LoggedBeforeMade) {
			continue
		}
		member := m.members[i]
		l.Logger.Warn("a replica could not be made", "chunk", m.handle, "server", member.Server, "error", err)
		if p.not == nil {
			p.not = map[quarry.ServerID]bool{}
		}
		p.not[member.Server] = true
		if quarry.KindOf(err) == quarry.Unavailable && slices.Contains(errs, nil) { // not all are slow
			l.roster.complain(member.Server, member.Incarnation, suspectFor)
		}
		if first == nil {
			first = quarry.Wrap("create", member.Address, err)
		}
	}
	return first
}

// giveUp removes what there may be of a chunk that will never be logged, also of a server that
// has restarted since. A replica that the removal does not reach is found by its server's next
// inventory.
func (l *Leader) giveUp(m *made) {
	l.spawn(func(ctx context.Context) {
		parallel(len(m.members), func(i int) error {
			at := m.members[i]
			if now, ok := l.present(at.Server); ok && now.Incarnation > at.Incarnation {
				at = now
			}
			l.dropAt(ctx, at, m.handle, 1)
			return nil
		})
		l.handles.settle(m.handle)
	})
}

// dropAt asks a server once to drop a replica.
func (l *Leader) dropAt(ctx context.Context, at quarry.Member, h quarry.Handle, v quarry.Version) {
	ctx, cancel := l.timeout(ctx)
	defer cancel()
	if err := l.Servers.Dial(at).Drop(ctx, &quarry.DropRequest{ChunkRef: l.ref(h, v, at.Incarnation)}); err != nil {
		l.Logger.Debug("a replica was not dropped", "chunk", h, "server", at.Server, "error", err)
	}
}

// callerOf returns the host that a request came from; "" if it did not come over a network.
func callerOf(ctx context.Context) string {
	if peer, ok := rpc.PeerFrom(ctx); ok {
		return hostOf(peer.Address)
	}
	return ""
}

// notApplied reports whether a proposal that failed with err will surely never be applied.
func notApplied(err error) bool {
	switch quarry.KindOf(err) {
	case quarry.NotLeader, quarry.Busy, quarry.Unavailable, quarry.TooLarge, quarry.Invalid:
		return true
	}
	return false
}

// activate gives the primary of an open, logged chunk its role, unless this leader has done
// so. If it fails, the version must be sealed: the primary may have the role or not.
func (l *Leader) activate(ctx context.Context, rec *meta.ChunkRecord) error {
	if l.isActive(rec) {
		return nil
	}
	c := l.Describe(rec, 0)
	primary := c.Primary()
	if now, ok := l.present(primary.Server); ok && now.Incarnation != primary.Incarnation {
		return quarry.Errorf("activate", quarry.StaleVersion, rec.Handle.String(), "the primary, server %d, has restarted", primary.Server)
	}
	req := &quarry.ActivateRequest{ChunkRef: l.ref(rec.Handle, rec.WritableVersion, primary.Incarnation), Members: c.Members, Base: rec.Base}
	req.Capability = l.Keys().Sign(l.Cluster, rec.Handle, quarry.RightControl|quarry.RightPrepare)
	if off(CreateAfterLogged) {
		_ = l.createAll(ctx, &made{rec.Handle, c.Members}, &plan{file: rec.File})
	}
	ctx, cancel := l.longTimeout(ctx)
	defer cancel()
	if rec.PrevWritableVersion != 0 {
		if err := l.reopenAll(ctx, rec, c.Members); err != nil {
			return err
		}
	}
	for pause := newPause(l.Clock); ; {
		err := l.Servers.Dial(primary).Activate(ctx, req)
		if err == nil {
			l.mu.Lock()
			l.active[rec.Handle] = activated{rec.WritableVersion, l.Clock.Now()}
			l.mu.Unlock()
			return nil
		}
		switch quarry.KindOf(err) {
		case quarry.Busy, quarry.Unavailable, quarry.Internal:
			if pause.wait(ctx) == nil {
				continue
			}
		}
		return quarry.Wrap("activate", rec.Handle.String(), err)
	}
}

func (l *Leader) isActive(rec *meta.ChunkRecord) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.active[rec.Handle].version == rec.WritableVersion
}

// parallel calls f for 0 to n-1 at the same time and returns the errors in their order.
func parallel(n int, f func(i int) error) []error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	return errs
}
