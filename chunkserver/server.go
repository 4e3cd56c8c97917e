package chunkserver

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/chunk"
)

// settlingMax bounds the grants whose items are begun: one that comes when a disk hangs stays
// until the disk is given up.
const settlingMax = 64

// backgroundMax bounds the small jobs (reports, commits) that run beside the requests.
const backgroundMax = 1024

// Server is a chunk server. All methods may be called by many goroutines.
type Server struct {
	cfg         Config
	ctx         context.Context // ends with the server
	stop        context.CancelFunc
	jobs        sync.WaitGroup
	room        chan struct{} // one token per background job
	settling    chan struct{} // one token per grant whose items are begun
	id          quarry.ServerID
	incarnation quarry.Incarnation
	leases      leases
	streams     streams
	traffic     traffic
	memory      atomic.Int64 // bytes received and not yet committed

	over   chan struct{} // closed when another process has taken its place
	jobsMu sync.Mutex    // held while a job is begun, and while the server begins to stop

	mu       sync.RWMutex
	keys     quarry.Keys
	overBy   error // why the server is over
	replicas map[quarry.Handle]*replica
	disks    map[quarry.DiskID]*chunk.Store
}

var _ quarry.ChunkServer = (*Server)(nil)

// Open registers the server at the cluster's masters, which may take as long as ctx allows,
// and returns it ready for requests. The leases come with the first heartbeats, which begin
// at once.
func Open(ctx context.Context, cfg Config) (*Server, error) {
	if err := cfg.withDefaults(); err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, room: make(chan struct{}, backgroundMax), settling: make(chan struct{}, settlingMax), over: make(chan struct{}),
		replicas: map[quarry.Handle]*replica{}, disks: map[quarry.DiskID]*chunk.Store{},
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	for _, d := range cfg.Disks {
		s.disks[d.Identity().Disk] = d
	}
	if err := s.register(ctx); err != nil {
		s.stop()
		return nil, err
	}
	s.streams.init(s)
	for _, d := range cfg.Disks {
		s.loop(func(ctx context.Context) { s.watch(ctx, d) })
		s.loop(func(ctx context.Context) { s.attend(ctx, d) })
		s.loop(func(ctx context.Context) { s.measure(ctx, d) })
		s.loop(func(ctx context.Context) { s.scrub(ctx, d) })
		s.loop(func(ctx context.Context) { s.purge(ctx, d) })
	}
	s.loop(s.heartbeats)
	s.loop(s.inventories)
	s.loop(s.idles)
	s.loop(s.streams.run)
	return s, nil
}

// Done is closed when another process has taken this server's place, as the root group knows
// it: no master will grant it anything again. Err says so. The server must still be closed.
func (s *Server) Done() <-chan struct{} { return s.over }

// Err returns why the server should stop by itself; nil while it need not.
func (s *Server) Err() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.overBy
}

// superseded notes that a later incarnation of the server has begun.
func (s *Server) superseded(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.overBy == nil {
		s.overBy = quarry.Wrap("chunk server", s.cfg.Address, err)
		close(s.over)
		s.cfg.Logger.Error("another process has taken the place of this one: start it again, on its own folders", "error", err)
	}
}

// ID returns the server's id.
func (s *Server) ID() quarry.ServerID { return s.id }

// Incarnation returns the number of this start of the server.
func (s *Server) Incarnation() quarry.Incarnation { return s.incarnation }

// Close stops the server and closes its disks. Requests under way are answered with errors;
// what was acknowledged is durable already.
func (s *Server) Close() error {
	s.jobsMu.Lock()
	s.stop()
	s.jobsMu.Unlock()
	looking, stop := context.WithCancel(context.Background())
	defer stop()
	for _, d := range s.cfg.Disks {
		go s.attend(looking, d) // it may hang from now on only
	}
	s.waitForJobs()
	var first error
	for _, d := range s.cfg.Disks {
		if err := d.Close(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// waitForJobs waits until everything has ended that was begun; not for ever, if a disk does
// not answer.
func (s *Server) waitForJobs() {
	over := make(chan struct{})
	go func() {
		s.jobs.Wait()
		close(over)
	}()
	ticker := s.cfg.Clock.NewTicker(hungClose)
	defer ticker.Stop()
	for {
		select {
		case <-over:
			return
		case <-ticker.C():
			if slices.ContainsFunc(s.cfg.Disks, (*chunk.Store).Hung) {
				return
			}
		}
	}
}

// loop runs a job for as long as the server lives.
func (s *Server) loop(job func(context.Context)) {
	s.jobs.Go(func() { job(s.ctx) })
}

// begin runs a job, and reports whether it does: not when the server is stopping.
func (s *Server) begin(job func(context.Context)) bool {
	s.jobsMu.Lock()
	defer s.jobsMu.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	s.jobs.Go(func() { job(s.ctx) })
	return true
}

// background is begin for small jobs. When too many run already it does not: each of them
// only tells sooner what others learn anyway.
func (s *Server) background(job func(context.Context)) bool {
	select {
	case s.room <- struct{}{}:
	default:
		return false
	}
	begun := s.begin(func(ctx context.Context) {
		defer func() { <-s.room }()
		job(ctx)
	})
	if !begun {
		<-s.room
	}
	return begun
}

// stopping returns an error if the server is stopping.
func (s *Server) stopping(op string, h quarry.Handle) error {
	if s.ctx.Err() == nil {
		return nil
	}
	return quarry.Errorf(op, quarry.Unavailable, h.String(), "the server is stopping")
}

// sign returns a capability for another server of the cluster.
func (s *Server) sign(h quarry.Handle, rights quarry.Rights) quarry.Capability {
	s.mu.RLock()
	keys := s.keys
	s.mu.RUnlock()
	return keys.Sign(s.cfg.Cluster, h, rights)
}

// sortReplicas puts replicas into the order of their handles: nothing that a server does
// depends on the order in which a map happens to be walked, so that simulations repeat.
func sortReplicas(list []*replica) {
	slices.SortFunc(list, func(a, b *replica) int { return cmp.Compare(a.handle, b.handle) })
}
