package chunkserver

import (
	"context"
	"slices"
	"sync"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/protocol"
)

// pulse is the heartbeat to one master node.
type pulse struct {
	mu      sync.Mutex
	busy    bool
	settled []quarry.Item // done, but the node may not know it

	answered uint64        // nonce of the last heartbeat that was answered
	received clock.Instant // when the answer came
}

// heartbeats sends a heartbeat to every master node, again and again. A node that does not
// answer holds up only itself.
func (s *Server) heartbeats(ctx context.Context) {
	ticker := s.cfg.Clock.NewTicker(s.cfg.HeartbeatEvery)
	defer ticker.Stop()
	pulses := map[string]*pulse{}
	nonce := uint64(0)
	for {
		usage, busy := s.usage(), s.memory.Load()
		addresses := s.cfg.Masters.Addresses()
		for address := range pulses {
			if !slices.Contains(addresses, address) {
				delete(pulses, address) // that master was removed
			}
		}
		for _, address := range addresses {
			p := pulses[address]
			if p == nil {
				p = &pulse{}
				pulses[address] = p
			}
			if !p.begin() {
				continue // the one before is still under way
			}
			nonce++
			req := &quarry.HeartbeatRequest{
				Server: s.id, Incarnation: s.incarnation, Boot: s.cfg.Boot, Nonce: nonce,
				Address: s.cfg.Address, Rack: s.cfg.Rack, Disks: usage, BusyBytes: busy,
			}
			s.jobs.Go(func() { s.beat(ctx, address, p, req) })
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		}
	}
}

func (p *pulse) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy {
		return false
	}
	p.busy = true
	return true
}

// beat sends one heartbeat and does what its answer asks for: the items first, durably, and
// only then is the lease valid. It is counted from the instant before the sending.
func (s *Server) beat(ctx context.Context, address string, p *pulse, req *quarry.HeartbeatRequest) {
	defer func() {
		p.mu.Lock()
		p.busy = false
		p.mu.Unlock()
	}()
	node, err := s.cfg.Masters.Node(address)
	if err != nil {
		return
	}
	p.mu.Lock()
	req.Settled, req.Answered, req.Received = p.settled, p.answered, int64(p.received)
	p.mu.Unlock()
	ctx, cancel := s.cfg.Clock.WithTimeout(ctx, 4*s.cfg.HeartbeatEvery)
	defer cancel()
	sent := s.cfg.Clock.Now()
	req.Sent = int64(sent)
	reply, err := node.Heartbeat(ctx, req)
	if quarry.KindOf(err) == quarry.StaleVersion {
		s.superseded(err)
		return
	}
	if err != nil || reply.Nonce != req.Nonce {
		s.cfg.Logger.Debug("heartbeat", "master", address, "error", err)
		return
	}
	p.mu.Lock()
	p.answered, p.received = req.Nonce, s.cfg.Clock.Now()
	p.mu.Unlock()
	if reply.Masters != 0 && reply.Masters != quarry.SumMasters(s.cfg.Masters.Addresses()) {
		// Other masters have come, and one of them may lead before anybody is refused: without its
		// grants this server's leases would end. The node that said so knows them; one that is behind
		// names those of before, and what it tells is not taken.
		if err := s.cfg.Masters.Learn(ctx, address); err != nil {
			s.cfg.Logger.Debug("the masters have changed", "error", err)
		}
	}
	settled := s.take(ctx, reply.Grants, req.Nonce, sent)
	p.mu.Lock()
	p.settled = settled
	p.mu.Unlock()
}

// take settles what grants ask for and takes their leases, and returns what is settled, as much
// as the next heartbeat can say. No shard waits for another one: neither for a disk that hangs,
// nor because another one asks for a lot.
func (s *Server) take(ctx context.Context, grants []quarry.Grant, nonce uint64, sent clock.Instant) []quarry.Item {
	done := make([][]quarry.Item, len(grants))
	one := func(i int) {
		g := &grants[i]
		if !s.settle(ctx, g.Items) {
			return
		}
		done[i] = g.Items
		if !g.More {
			s.leases.granted(g, nonce, sent)
		}
	}
	var wg sync.WaitGroup
	for i := range grants {
		if len(grants[i].Items) == 0 {
			one(i)
			continue
		}
		wg.Go(func() { one(i) })
	}
	wg.Wait()
	return share(done, quarry.ItemsMax)
}

// share returns at most n items, of each list as many as of the others while it has some.
func share(lists [][]quarry.Item, n int) (out []quarry.Item) {
	for at, more := 0, true; more && len(out) < n; at++ {
		more = false
		for _, list := range lists {
			if at < len(list) && len(out) < n {
				out, more = append(out, list[at]), true
			}
		}
	}
	return out
}

// settle does items, side by side, and reports whether all of them are durable. It does not
// wait for a disk longer than ctx allows: to find a replica may need one.
func (s *Server) settle(ctx context.Context, items []quarry.Item) bool {
	if len(items) == 0 {
		return true
	}
	failed := make(chan error, len(items))
	select {
	case s.settling <- struct{}{}:
	default:
		return false
	}
	begun := s.begin(func(context.Context) {
		defer func() { <-s.settling }()
		for _, item := range items {
			s.settleOne(item, func(err error) { failed <- err })
		}
	})
	if !begun {
		<-s.settling
		return false
	}
	done := true
	for range items {
		select {
		case err := <-failed:
			// A replica that has promised more than a drop names stays, and the item is
			// settled: whoever judged it knows better by then.
			if err != nil && quarry.KindOf(err) != quarry.StaleVersion {
				s.cfg.Logger.Warn("an item of a grant could not be settled", "error", err)
				done = false
			}
		case <-ctx.Done():
			return false
		}
	}
	return done
}

// settleOne does one item; done is called when it is durable, or cannot be.
func (s *Server) settleOne(item quarry.Item, done func(error)) {
	r, err := s.find(item.Handle)
	if r == nil {
		done(err) // without a replica there is nothing to fence or drop
		return
	}
	defer r.release()
	r.request(nil, func(_ any, err error) { done(err) }, func(m *protocol.Member, c protocol.Call) []protocol.Effect {
		switch item.Kind {
		case quarry.ItemFence:
			return m.Promise(c, item.Version)
		case quarry.ItemDrop:
			if r.disk.Err() != nil {
				return []protocol.Effect{protocol.Answer{Call: c}} // it serves nothing, and its disk takes nothing
			}
			return m.Drop(c, &quarry.DropRequest{ChunkRef: quarry.ChunkRef{Handle: item.Handle, Version: item.Version, Target: s.incarnation}})
		}
		return []protocol.Effect{protocol.Answer{Call: c, Err: quarry.Errorf("settle", quarry.Unsupported, item.Handle.String(), "item of kind %d", item.Kind)}}
	})
}
