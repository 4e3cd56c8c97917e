package master

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/protocol"
)

// Heartbeat renews a server's leases at every shard that this node leads. A shard that
// cannot grant is left out: the server keeps what it holds until it is over.
func (m *Master) Heartbeat(ctx context.Context, req *quarry.HeartbeatRequest) (*quarry.HeartbeatReply, error) {
	if !m.started.Load() {
		return nil, m.waiting("heartbeat")
	}
	registry := m.root.known.Load()
	if registry == nil {
		return nil, quarry.Errorf("heartbeat", quarry.Unavailable, "", "this master has not learnt yet which servers there are")
	}
	switch s, ok := registry.servers[req.Server]; {
	case !ok:
		return nil, quarry.Errorf("heartbeat", quarry.Unavailable, "", "this master has not learnt of server %d yet", req.Server)
	case s.Forgotten:
		return nil, quarry.Errorf("heartbeat", quarry.Permission, "", "server %d was given up for good", req.Server)
	case req.Incarnation < s.Incarnation:
		return nil, quarry.Errorf("heartbeat", quarry.StaleVersion, "", "incarnation %d of server %d has begun, this is %d", s.Incarnation, req.Server, req.Incarnation)
	}
	if st, err := m.host.Status(quarry.RootShard); err == nil && st.Leading {
		m.root.confirm(req)
	}
	lease := m.notePulse(req)
	reply := &quarry.HeartbeatReply{Nonce: req.Nonce, Masters: registry.sum}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, shard := range registry.topology.Shards {
		sh := m.group(shard.Shard)
		if sh == nil {
			continue
		}
		t := sh.lead.Load()
		if t == nil {
			continue
		}
		wg.Go(func() {
			grant, err := t.chunks.Heartbeat(ctx, req, lease)
			if err != nil {
				m.cfg.Logger.Debug("no grant", "shard", uint64(sh.id), "server", uint64(req.Server), "error", err)
				return
			}
			mu.Lock()
			reply.Grants = append(reply.Grants, *grant)
			mu.Unlock()
		})
	}
	wg.Wait()
	slices.SortFunc(reply.Grants, func(a, b quarry.Grant) int { return cmp.Compare(a.Shard, b.Shard) })
	m.noteReply(req)
	return reply, nil
}

const (
	// pulsesMax bounds the servers whose last heartbeat a node remembers.
	pulsesMax = 1 << 16
	// heardFor is how long a heartbeat says that a server can be given chunks.
	heardFor = 2 * time.Second
)

// pulse is a server's last heartbeat to this node.
type pulse struct {
	req   *quarry.HeartbeatRequest
	at    clock.Instant
	drift *protocol.Drift // of the server's clock; of this incarnation's only
}

// notePulse remembers a heartbeat: for operators, and for the shards that this node may lead
// soon. It reports whether the server's clock is good enough for a lease, as far as is known.
func (m *Master) notePulse(req *quarry.HeartbeatRequest) (lease bool) {
	note := *req
	note.Settled = nil
	m.pulseMu.Lock()
	defer m.pulseMu.Unlock()
	before, ok := m.pulses[req.Server]
	if ok && before.req.Incarnation > req.Incarnation || !ok && len(m.pulses) >= pulsesMax {
		return true
	}
	p := pulse{req: &note, at: m.cfg.Clock.Now(), drift: &protocol.Drift{}}
	if ok && before.req.Incarnation == req.Incarnation {
		p.drift = before.drift
	}
	was := p.drift.TooMuch()
	p.drift.Arrived(req.Nonce, protocol.Instant(req.Sent), req.Answered, protocol.Instant(req.Received), protocol.Instant(p.at))
	m.pulses[req.Server] = p
	over := p.drift.TooMuch()
	if over != was {
		m.cfg.Logger.Warn("the clock of a chunk server drifts: above the limit it gets no lease", "server", uint64(req.Server),
			"ppm", p.drift.PPM(), "limit", protocol.DriftPPMMax, "lease", !over)
	}
	return !over
}

// noteReply notes that a heartbeat is about to be answered.
func (m *Master) noteReply(req *quarry.HeartbeatRequest) {
	now := m.cfg.Clock.Now()
	m.pulseMu.Lock()
	defer m.pulseMu.Unlock()
	if p, ok := m.pulses[req.Server]; ok && p.req.Incarnation == req.Incarnation {
		p.drift.Replied(req.Nonce, protocol.Instant(now))
	}
}

// heardLately returns the last heartbeats of the servers that can be given chunks.
func (m *Master) heardLately() []*quarry.HeartbeatRequest {
	now := m.cfg.Clock.Now()
	m.pulseMu.Lock()
	defer m.pulseMu.Unlock()
	var out []*quarry.HeartbeatRequest
	for _, p := range m.pulses {
		if now.Sub(p.at) < heardFor {
			out = append(out, p.req)
		}
	}
	slices.SortFunc(out, func(a, b *quarry.HeartbeatRequest) int { return cmp.Compare(a.Server, b.Server) })
	return out
}
