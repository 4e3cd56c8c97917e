package chunks

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/protocol"
)

// network joins the fake chunk servers of a test, which live on protocol's own machines.
type network struct {
	mu      sync.Mutex
	servers map[quarry.ServerID]*fakeServer
	// fault is asked before each request; an error fails it, errSilent lets it hang until its
	// caller gives up, errReplyLost carries it out and then hangs.
	fault func(op string, s *fakeServer, ref quarry.ChunkRef) error
	calls map[string]int                          // requests carried out, by operation
	watch func(op string, s *fakeServer, req any) // looks at each request that is carried out
}

type faultKind string

func (f faultKind) Error() string { return string(f) }

const (
	errSilent    = faultKind("silent")
	errReplyLost = faultKind("reply lost")
)

// fakeServer is a chunk server whose disk is a map and never fails unless told to.
type fakeServer struct {
	quarry.ChunkServer // what the tests do not need
	net                *network
	id                 quarry.ServerID
	disk               quarry.DiskID
	boot               string
	rack               string

	mu       sync.Mutex
	inc      quarry.Incarnation
	down     bool // no request gets through
	dead     bool // there is no process
	free     int64
	failed   string // why the disk was retired
	hung     bool   // the disk does not answer
	members  map[quarry.Handle]*protocol.Member
	answers  map[protocol.Call]chan protocol.Answer
	lastCall protocol.Call
	nonce    uint64
	settled  []quarry.Item
	lease    protocol.HeldLease
	asked    []quarry.Handle // chunks that asked for a seal
}

func newNetwork() *network {
	return &network{servers: map[quarry.ServerID]*fakeServer{}, calls: map[string]int{}}
}

func (n *network) add(id quarry.ServerID) *fakeServer {
	s := &fakeServer{
		net: n, id: id, inc: quarry.Incarnation(100 * id), disk: quarry.DiskID{byte(id)}, boot: fmt.Sprintf("boot%d", id),
		rack: fmt.Sprintf("rack%d", id), free: 1 << 40, members: map[quarry.Handle]*protocol.Member{},
		answers: map[protocol.Call]chan protocol.Answer{},
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.servers[id] = s
	return s
}

func (n *network) server(id quarry.ServerID) *fakeServer {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.servers[id]
}

func (n *network) count(op string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.calls[op]
}

func (n *network) look(op string, s *fakeServer, req any) {
	if n.watch != nil {
		n.watch(op, s, req)
	}
}

func (n *network) setFault(f func(op string, s *fakeServer, ref quarry.ChunkRef) error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fault = f
}

// crossing is a request's way to a server and back.
func (s *fakeServer) crossing(ctx context.Context, op string, ref quarry.ChunkRef) (lost bool, err error) {
	if err := sim.Sleep(ctx, time.Millisecond); err != nil {
		return false, err
	}
	s.net.mu.Lock()
	fault := s.net.fault
	s.net.mu.Unlock()
	if fault != nil {
		err = fault(op, s, ref)
	}
	s.mu.Lock()
	down := s.down
	s.mu.Unlock()
	switch {
	case down || err == errSilent:
		<-ctx.Done()
		return false, ctx.Err()
	case err == errReplyLost:
		lost = true
	case err != nil:
		return false, err
	}
	s.net.mu.Lock()
	s.net.calls[op]++
	s.net.mu.Unlock()
	return lost, nil
}

// do carries a request to a member and waits for its answer.
func (s *fakeServer) do(ctx context.Context, op string, ref quarry.ChunkRef, event func(m *protocol.Member, c protocol.Call) []protocol.Effect) (any, error) {
	lost, err := s.crossing(ctx, op, ref)
	if err != nil {
		return nil, err
	}
	ch := make(chan protocol.Answer, 1)
	s.mu.Lock()
	s.lastCall++
	call := s.lastCall
	s.answers[call] = ch
	s.run(s.member(ref.Handle), func(m *protocol.Member) []protocol.Effect { return event(m, call) })
	s.mu.Unlock()
	select {
	case a := <-ch:
		if lost {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return a.Reply, a.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *fakeServer) member(h quarry.Handle) *protocol.Member {
	m := s.members[h]
	if m == nil {
		m = protocol.NewMember(h, s.id, s.inc)
		s.members[h] = m
	}
	return m
}

// run lets a member make a step and carries out what it wants; s.mu is held.
func (s *fakeServer) run(m *protocol.Member, step func(*protocol.Member) []protocol.Effect) {
	for _, e := range step(m) {
		switch e := e.(type) {
		case protocol.Persist:
			if s.hung {
				continue
			}
			s.run(m, func(m *protocol.Member) []protocol.Effect { return m.Durable(e.Ticket) })
		case protocol.Answer:
			if ch := s.answers[e.Call]; ch != nil {
				ch <- e
				delete(s.answers, e.Call)
			}
		case protocol.Ship:
			for _, next := range m.Primary().Members()[1:] {
				go s.ship(m, next, e.Request)
			}
		case protocol.AskSeal:
			s.asked = append(s.asked, m.Handle())
		}
	}
}

func (s *fakeServer) ship(m *protocol.Member, to quarry.Member, req quarry.PrepareRequest) {
	ctx, cancel := sim.WithTimeout(context.Background(), time.Second)
	defer cancel()
	req.Target = to.Incarnation
	reply, err := s.net.server(to.Server).do(ctx, "prepare", req.ChunkRef, func(m *protocol.Member, c protocol.Call) []protocol.Effect {
		return m.Prepare(c, &req)
	})
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.members[req.Handle] == m {
		s.run(m, func(m *protocol.Member) []protocol.Effect {
			return m.Acknowledged(req.Version, reply.(*quarry.PrepareReply).Durable)
		})
	}
}

// append appends a record of n bytes at the chunk's primary.
func (n *network) append(ctx context.Context, c quarry.Chunk, session quarry.SessionID, seq quarry.Sequence, length int64) (int64, error) {
	p := c.Primary()
	ref := quarry.ChunkRef{Handle: c.Handle, Version: c.Version, Target: p.Incarnation}
	reply, err := n.server(p.Server).do(ctx, "append", ref, func(m *protocol.Member, call protocol.Call) []protocol.Effect {
		return m.Append(call, &ref, seq, quarry.RecordHeader{Session: session, Sequence: seq, Length: length})
	})
	if err != nil {
		return 0, err
	}
	return reply.(*quarry.AppendReply).Offset, nil
}

func (s *fakeServer) Create(ctx context.Context, req *quarry.CreateRequest) error {
	if req.Disk != s.disk {
		return quarry.Errorf("create", quarry.NotFound, "", "no such disk")
	}
	s.net.look("create", s, req)
	_, err := s.do(ctx, "create", req.ChunkRef, func(m *protocol.Member, c protocol.Call) []protocol.Effect { return m.Create(c, req) })
	return err
}

func (s *fakeServer) Activate(ctx context.Context, req *quarry.ActivateRequest) error {
	for _, m := range req.Members {
		if m.Address == "" {
			return quarry.Errorf("activate", quarry.Invalid, "", "member %d has no address", m.Server)
		}
	}
	s.net.look("activate", s, req)
	_, err := s.do(ctx, "activate", req.ChunkRef, func(m *protocol.Member, c protocol.Call) []protocol.Effect { return m.Activate(c, req) })
	return err
}

func (s *fakeServer) Reopen(ctx context.Context, req *quarry.ReopenRequest) error {
	s.net.look("reopen", s, req)
	_, err := s.do(ctx, "reopen", req.ChunkRef, func(m *protocol.Member, c protocol.Call) []protocol.Effect { return m.Reopen(c, req) })
	return err
}

func (s *fakeServer) Fence(ctx context.Context, req *quarry.FenceRequest) (*quarry.FenceReply, error) {
	soon, cancel := sim.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	reply, err := s.do(soon, "fence", req.ChunkRef, func(m *protocol.Member, c protocol.Call) []protocol.Effect { return m.Fence(c, req) })
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil && s.hung:
		return s.members[req.Handle].Fencing(req)
	case err != nil:
		return nil, err
	}
	return reply.(*quarry.FenceReply), nil
}

func (s *fakeServer) Seal(ctx context.Context, req *quarry.SealRequest) (*quarry.SealReply, error) {
	s.net.look("seal", s, req)
	reply, err := s.do(ctx, "seal", req.ChunkRef, func(m *protocol.Member, c protocol.Call) []protocol.Effect { return m.Seal(c, req) })
	if err != nil {
		return nil, err
	}
	r := *reply.(*quarry.SealReply)
	r.CRC = crcOf(req.Handle, req.Length)
	return &r, nil
}

// crcOf stands for the checksum of a chunk's bytes.
func crcOf(h quarry.Handle, length int64) uint32 { return uint32(h)*31 + uint32(length) }

func (s *fakeServer) Copy(ctx context.Context, req *quarry.CopyRequest) error {
	if req.CRCKnown && req.CRC != crcOf(req.Handle, req.Length) {
		return quarry.Errorf("copy", quarry.Corrupt, "", "the checksum is wrong")
	}
	if len(req.Parts) > 0 {
		return s.gather(ctx, req)
	}
	var table protocol.Records
	found := false
	for _, src := range req.Sources {
		o := s.net.server(src.Server)
		o.mu.Lock()
		if m := o.members[req.Handle]; !o.down && m != nil {
			info := m.Info()
			if found = info.Status == quarry.ReplicaGood && info.SealVersion == req.Version; found {
				table = m.Replica().Records.Clone()
			}
		}
		o.mu.Unlock()
		if found {
			break
		}
	}
	if !found {
		return quarry.Errorf("copy", quarry.Unavailable, "", "no source has the chunk")
	}
	_, err := s.do(ctx, "copy", req.ChunkRef, func(m *protocol.Member, c protocol.Call) []protocol.Effect {
		return m.Copied(c, req, &table, nil)
	})
	return err
}

// gather puts a chunk together from parts.
func (s *fakeServer) gather(ctx context.Context, req *quarry.CopyRequest) error {
	var runs []quarry.RecordRun
	base := int64(0)
	for _, p := range req.Parts {
		o := s.net.server(p.Sources[0].Server)
		o.mu.Lock()
		m := o.members[p.Handle]
		if o.down || m == nil || m.Info().SealVersion != p.Version || m.Info().Length != p.Length {
			o.mu.Unlock()
			return quarry.Errorf("gather", quarry.Unavailable, "", "server %d does not hold chunk %v", o.id, p.Handle)
		}
		for _, run := range m.Replica().Records.Runs() {
			run.Offset += base
			runs = append(runs, run)
		}
		o.mu.Unlock()
		base += p.Length
	}
	table, err := protocol.MakeRecords(runs)
	if err != nil {
		return err
	}
	_, err = s.do(ctx, "gather", req.ChunkRef, func(m *protocol.Member, c protocol.Call) []protocol.Effect {
		return m.Copied(c, req, &table, nil)
	})
	return err
}

func (s *fakeServer) Add(ctx context.Context, req *quarry.AddRequest) error {
	s.net.look("add", s, req)
	_, err := s.do(ctx, "add", req.ChunkRef, func(m *protocol.Member, c protocol.Call) []protocol.Effect { return m.Add(c, req) })
	return err
}

func (s *fakeServer) Drop(ctx context.Context, req *quarry.DropRequest) error {
	_, err := s.do(ctx, "drop", req.ChunkRef, func(m *protocol.Member, c protocol.Call) []protocol.Effect { return m.Drop(c, req) })
	return err
}

// kill ends the server's process; start begins it again, on what its disk held. unplug only
// cuts it off the network, and plug joins it again.
func (s *fakeServer) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down, s.dead, s.lease = true, true, protocol.HeldLease{}
}

func (s *fakeServer) unplug() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = true
}

func (s *fakeServer) start(inc quarry.Incarnation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down, s.dead, s.inc, s.settled, s.lease = false, false, inc, nil, protocol.HeldLease{}
	for h, m := range s.members {
		if !m.Exists() {
			delete(s.members, h)
			continue
		}
		s.members[h] = protocol.RecoverMember(*m.Replica(), s.id, inc)
	}
}

// hang has the server's disk not answer any more.
func (s *fakeServer) hang() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hung = true
}

func (s *fakeServer) plug() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = false
}

// heartbeat returns the request that the server would send at this instant.
func (s *fakeServer) heartbeat() *quarry.HeartbeatRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nonce++
	s.lease.Ask(s.nonce, protocol.Instant(sim.Now()))
	return &quarry.HeartbeatRequest{
		Server: s.id, Incarnation: s.inc, Boot: s.boot, Nonce: s.nonce, Address: addressOf(s.id), Rack: s.rack,
		Disks:   []quarry.DiskUsage{{Disk: s.disk, Total: 1 << 41, Free: s.free, Failed: s.failed}},
		Settled: append([]quarry.Item(nil), s.settled...),
	}
}

// granted does what a grant asks for, and then takes the lease.
func (s *fakeServer) granted(req *quarry.HeartbeatRequest, g quarry.Grant) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down || s.inc != req.Incarnation || s.hung && len(g.Items) > 0 {
		return
	}
	s.settled = s.settled[min(len(s.settled), len(req.Settled)):]
	for _, item := range g.Items {
		switch item.Kind {
		case quarry.ItemFence:
			s.run(s.member(item.Handle), func(m *protocol.Member) []protocol.Effect { return m.Promise(0, item.Version) })
		case quarry.ItemDrop:
			s.run(s.member(item.Handle), func(m *protocol.Member) []protocol.Effect {
				return m.Drop(0, &quarry.DropRequest{ChunkRef: quarry.ChunkRef{Handle: item.Handle, Version: item.Version, Target: s.inc}})
			})
		}
		s.settled = append(s.settled, item)
	}
	if !g.More {
		s.lease.Granted(req.Nonce, protocol.Instant(g.EndMS)*1e6, protocol.Instant(g.ReadMS)*1e6)
	}
}

// has returns what the server would report of a chunk.
func (s *fakeServer) has(h quarry.Handle) quarry.ReplicaInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.members[h]; m != nil {
		info := m.Info()
		info.Disk = s.disk
		return info
	}
	return quarry.ReplicaInfo{Handle: h, Status: quarry.ReplicaMissing}
}

// inventory returns one page with all replicas.
func (s *fakeServer) inventory(shard quarry.ShardID) *quarry.InventoryRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	req := &quarry.InventoryRequest{Server: s.id, Incarnation: s.inc, Shard: shard, To: ^quarry.Handle(0)}
	for _, m := range s.members {
		if m.Exists() {
			info := m.Info()
			info.Disk = s.disk
			req.Replicas = append(req.Replicas, info)
		}
	}
	slices.SortFunc(req.Replicas, func(a, b quarry.ReplicaInfo) int { return cmp.Compare(a.Handle, b.Handle) })
	return req
}

func addressOf(id quarry.ServerID) string { return fmt.Sprintf("10.0.0.%d:7000", id) }

func (s *fakeServer) isDown() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.down
}

// saysEnd reports whether the server, asked at this instant, would say where version v of a
// chunk ends.
func (s *fakeServer) saysEnd(h quarry.Handle, v quarry.Version) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.members[h]
	return m != nil && m.Primary() != nil && m.Primary().Version() == v && m.Info().Promised == v && s.lease.Holds(protocol.RightEnd, protocol.Instant(sim.Now()))
}

// isDead reports whether the process was killed and not begun again.
func (s *fakeServer) isDead() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dead
}

func (s *fakeServer) incarnation() quarry.Incarnation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inc
}
