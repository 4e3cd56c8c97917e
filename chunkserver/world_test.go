package chunkserver

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/chunk"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/crc32c"
	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/protocol"
)

const chunkA = quarry.Handle(0x10)

var everything = quarry.RightRead | quarry.RightAppend | quarry.RightPrepare | quarry.RightControl

// world is chunk servers that call each other directly, and the masters that they know.
type world struct {
	quarry.Master // what a chunk server does not call
	t             *testing.T
	keys          quarry.Keys

	mu          sync.Mutex
	servers     map[string]*Server
	incarnation quarry.Incarnation
	reports     []*quarry.ReportRequest
	grants      []quarry.Grant
	refuse      func(to string, req *quarry.PrepareRequest) error // a Prepare that does not arrive
	beats       map[quarry.ServerID]*quarry.HeartbeatRequest      // the last of each server
	travel      func()                                            // how long heartbeats and their answers take
	drift       protocol.Drift                                    // of the last server that sent a heartbeat
	clock       clock.Clock                                       // of servers that are started; nil: simulated
	log         slog.Handler                                      // of servers that are started; nil: nothing is kept
	inventories []*quarry.InventoryRequest
	drops       []quarry.Item // what the masters answer to inventories
	masters     uint64        // the sum of the masters' addresses that they tell
	learned     []string      // who was asked about them
	deaf        int           // so many reports do not arrive
	acked       bool          // see reopenOn
	damage      func(from string, reply *quarry.ReadReply)
}

// inWorld runs a test in simulated time.
func inWorld(t *testing.T, f func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, keys: quarry.Keys{{Number: 1, Secret: [32]byte{1}}}, servers: map[string]*Server{}, beats: map[quarry.ServerID]*quarry.HeartbeatRequest{}}
		defer func() {
			for _, s := range w.servers {
				_ = s.Close()
			}
		}()
		f(w)
	})
}

// peer is the way to a server.
type peer struct {
	quarry.ChunkServer
	w       *world
	address string
}

func (p peer) Prepare(ctx context.Context, req *quarry.PrepareRequest, done func(*quarry.PrepareReply, error)) {
	p.w.mu.Lock()
	refuse := p.w.refuse
	p.w.mu.Unlock()
	if refuse != nil {
		if err := refuse(p.address, req); err != nil {
			go done(nil, err)
			return
		}
	}
	copied := *req
	p.ChunkServer.Prepare(ctx, &copied, done)
}

func (p peer) Read(ctx context.Context, req *quarry.ReadRequest) (*quarry.ReadReply, error) {
	reply, err := p.ChunkServer.Read(ctx, req)
	if err == nil && p.w.damage != nil {
		p.w.damage(p.address, reply)
	}
	return reply, err
}

func (w *world) server(address string) *Server {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.servers[address]
}

func (w *world) Addresses() []string                { return []string{"m"} }
func (w *world) Node(string) (quarry.Master, error) { return w, nil }

func (w *world) Learn(_ context.Context, address string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.learned = append(w.learned, address)
	return nil
}

func (w *world) Topology(context.Context) (*quarry.TopologyReply, error) {
	return &quarry.TopologyReply{}, nil
}

func (w *world) Register(_ context.Context, req *quarry.RegisterRequest) (*quarry.RegisterReply, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.incarnation++
	return &quarry.RegisterReply{Server: quarry.ServerID(req.Address[1] - '0'), Incarnation: w.incarnation, Keys: w.keys}, nil
}

func (w *world) Heartbeat(_ context.Context, req *quarry.HeartbeatRequest) (*quarry.HeartbeatReply, error) {
	if w.travel != nil {
		w.travel()
		defer w.travel()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.beats[req.Server] = req
	now := protocol.Instant(clock.Simulated().Now())
	w.drift.Arrived(req.Nonce, protocol.Instant(req.Sent), req.Answered, protocol.Instant(req.Received), now)
	w.drift.Replied(req.Nonce, now)
	return &quarry.HeartbeatReply{Nonce: req.Nonce, Masters: w.masters, Grants: append([]quarry.Grant(nil), w.grants...)}, nil
}

func (w *world) Report(_ context.Context, req *quarry.ReportRequest) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.deaf > 0 {
		w.deaf--
		return quarry.Errorf("report", quarry.NotLeader, "", "an election")
	}
	w.reports = append(w.reports, req)
	return nil
}

func (w *world) reported() []*quarry.ReportRequest {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reports
}

// start starts server number n on its disks.
func (w *world) start(n int, memory int64, disks ...disk.FS) *Server {
	w.t.Helper()
	cfg := Config{
		Cluster: quarry.ClusterID{1}, Address: fmt.Sprintf("s%d", n), Boot: "boot", Masters: w, Clock: clock.Simulated(),
		Logger: slog.New(slog.DiscardHandler), MemoryBytes: memory,
		Dial: func(m quarry.Member) quarry.ChunkServer { return peer{w.server(m.Address), w, m.Address} },
	}
	if w.clock != nil {
		cfg.Clock = w.clock
	}
	if w.log != nil {
		cfg.Logger = slog.New(w.log)
	}
	for i, fsys := range disks {
		d, err := chunk.Open(fsys, chunk.Options{
			Identity: chunk.Identity{Cluster: cfg.Cluster, Disk: diskID(n, i)}, Now: time.Unix(1e9, 0), ReserveBytes: 1, Workers: 2,
		})
		if err != nil {
			w.t.Fatal(err)
		}
		cfg.Disks = append(cfg.Disks, d)
	}
	s, err := Open(w.t.Context(), cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	w.servers[cfg.Address] = s
	w.mu.Unlock()
	return s
}

func diskID(server, i int) quarry.DiskID { return quarry.DiskID{byte(server), byte(i + 1)} }

// three starts three servers with a disk each.
func (w *world) three() (servers []*Server, disks []*disk.Mem) {
	for n := 1; n <= 3; n++ {
		disks = append(disks, disk.NewMem())
		servers = append(servers, w.start(n, 0, disks[n-1]))
	}
	return servers, disks
}

func (w *world) ref(s *Server, v quarry.Version) quarry.ChunkRef {
	return quarry.ChunkRef{
		Handle: chunkA, Version: v, Target: s.Incarnation(), Capability: w.keys.Sign(s.cfg.Cluster, chunkA, everything),
	}
}

func member(s *Server) quarry.Member {
	return quarry.Member{Server: s.ID(), Incarnation: s.Incarnation(), Disk: diskID(int(s.ID()), 0), Address: s.cfg.Address}
}

func members(servers []*Server) (out []quarry.Member) {
	for _, s := range servers {
		out = append(out, member(s))
	}
	return out
}

// open makes the chunk at the servers, the first of them its primary.
func (w *world) open(servers ...*Server) {
	w.t.Helper()
	for _, s := range servers {
		w.ok(s.Create(w.t.Context(), &quarry.CreateRequest{ChunkRef: w.ref(s, 1), Disk: member(s).Disk, File: 1}))
	}
	w.ok(servers[0].Activate(w.t.Context(), &quarry.ActivateRequest{ChunkRef: w.ref(servers[0], 1), Members: members(servers)}))
}

func (w *world) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// is requires an error of a kind.
func (w *world) is(err error, kind quarry.Kind) {
	w.t.Helper()
	if quarry.KindOf(err) != kind {
		w.t.Fatalf("got %v, want %v", err, kind)
	}
}

// answer is how an append went.
type answer struct {
	reply *quarry.AppendReply
	err   error
}

// append sends a record of session 5 to the primary.
func (w *world) append(s *Server, seq quarry.Sequence, data []byte) <-chan answer {
	c := make(chan answer, 2)
	s.Append(w.t.Context(), &quarry.AppendRequest{
		ChunkRef: w.ref(s, 1), Session: 5, Sequence: seq, Oldest: 1, Data: data, CRCs: sums(data),
	}, func(reply *quarry.AppendReply, err error) { c <- answer{reply, err} })
	return c
}

// appended requires that a record stands at an offset.
func (w *world) appended(c <-chan answer, offset int64) {
	w.t.Helper()
	if a := <-c; a.err != nil || a.reply.Offset != offset {
		w.t.Fatalf("got %+v, want offset %d", a, offset)
	}
}

func (w *world) fence(s *Server, v quarry.Version) *quarry.FenceReply {
	w.t.Helper()
	reply, err := s.Fence(w.t.Context(), &quarry.FenceRequest{ChunkRef: w.ref(s, v)})
	w.ok(err)
	return reply
}

// seal fences the chunk and seals it at version 2.
func (w *world) seal(length int64, servers ...*Server) {
	w.t.Helper()
	for _, s := range servers {
		w.fence(s, 2)
		reply, err := s.Seal(w.t.Context(), &quarry.SealRequest{ChunkRef: w.ref(s, 2), Length: length, WritableVersion: 1})
		w.ok(err)
		if !reply.Holds {
			w.t.Fatalf("server %d does not hold the seal", s.ID())
		}
	}
}

func (w *world) read(s *Server, v quarry.Version, validated bool) ([]byte, error) {
	reply, err := s.Read(w.t.Context(), &quarry.ReadRequest{ChunkRef: w.ref(s, v), Length: quarry.ReadBytesMax, Validated: validated})
	if err != nil {
		return nil, err
	}
	return reply.Data, nil
}

// holds requires that a replica shows these bytes.
func (w *world) holds(s *Server, v quarry.Version, want []byte) {
	w.t.Helper()
	got, err := w.read(s, v, true)
	w.ok(err)
	if !bytes.Equal(got, want) {
		w.t.Fatalf("server %d shows %d bytes, want %d", s.ID(), len(got), len(want))
	}
}

func sums(data []byte) (out []uint32) {
	for len(data) > 0 {
		n := min(len(data), quarry.BlockBytes)
		out = append(out, crc32c.Checksum(data[:n]))
		data = data[n:]
	}
	return out
}

func text(n int, c byte) []byte { return bytes.Repeat([]byte{c}, n) }

// silent is a member that never answers a Prepare; only the end of its context ends one.
type silent struct{ quarry.ChunkServer }

func (*silent) Prepare(ctx context.Context, _ *quarry.PrepareRequest, done func(*quarry.PrepareReply, error)) {
	context.AfterFunc(ctx, func() { done(nil, quarry.Wrap("prepare", "", ctx.Err())) })
}
