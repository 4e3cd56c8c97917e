package client

import (
	"context"
	"io"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client/flight"
	"github.com/quarryfs/quarry/client/health"
	"github.com/quarryfs/quarry/client/lent"
	"github.com/quarryfs/quarry/client/waiting"
	"github.com/quarryfs/quarry/client/window"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/rpc"
)

// FileSystem is what gateways and tools need of a cluster. [FS] is the one implementation;
// package clienttest has an FS over a cluster in memory, which can be told to fail, and the
// suite that every FileSystem passes. All methods may be called by many goroutines.
type FileSystem interface {
	// Create makes an empty file and returns a stream to its end. Exists if the name is taken.
	Create(ctx context.Context, path string) (*Writer, error)
	// Put stores all of r under a name, in one step at the end; a file that has the name is
	// replaced. On an error nothing is visible, unless it is Unknown.
	Put(ctx context.Context, path string, r io.Reader, opts PutOptions) (Info, error)
	// Open returns a file for reading.
	Open(ctx context.Context, path string) (*File, error)
	// Append adds a record of 1 to quarry.RecordBytesMax bytes to the end of a file, once, and
	// returns where it begins. The file must exist.
	Append(ctx context.Context, path string, record []byte) (int64, error)
	// Appender is for many appends to one file, which exists.
	Appender(ctx context.Context, path string) (*Appender, error)
	// Tail returns a reader that begins at an offset and, at the end, waits for more.
	Tail(ctx context.Context, path string, from int64) (*Tail, error)
	// Stat describes a file, with its length at this moment, or a directory.
	Stat(ctx context.Context, path string) (Info, error)
	// List returns at most max entries of a directory behind the name after, in the order of
	// their bytes, and whether there are more. The length of a file that is being written is
	// what was sealed of it.
	List(ctx context.Context, path, after string, max int) (entries []Info, more bool, err error)
	// Mkdir makes a directory. Exists if the name is taken.
	Mkdir(ctx context.Context, path string) error
	// MkdirAll makes a directory and those above it, as far as they are missing.
	MkdirAll(ctx context.Context, path string) error
	// Rename gives a file or directory another name. A file that has it is replaced.
	Rename(ctx context.Context, from, to string) error
	// Remove removes a file or an empty directory. A file goes into the trash.
	Remove(ctx context.Context, path string) error
	// RemoveNow is Remove for a file that is not to be kept.
	RemoveNow(ctx context.Context, path string) error
	// SetAttr sets the mode, the owner, the group or the time of a file or directory, which are
	// kept and shown only.
	SetAttr(ctx context.Context, path string, change AttrChange) (Info, error)
	// Trash returns the files in the trash that were called path or were below it.
	Trash(ctx context.Context, path string) iter.Seq2[Removed, error]
	// Undelete brings a file back from the trash, whole and in one step. Exists if the name is
	// taken; NotFound if the file is not in the trash (any more).
	Undelete(ctx context.Context, path string, opts UndeleteOptions) (Info, error)
	// Close ends the sessions and everything that was opened.
	Close() error
}

// Options are a client's settings; the zero value is right for most.
type Options struct {
	// Clock is the time that is waited by. Default: the machine's.
	Clock clock.Clock
	// Hosts are the addresses, without port, of this machine; replicas there are read first.
	// Default: the masters' order is kept.
	Hosts []string
	// NetworkOnly has replicas on this machine read over the network, too. Else Open's client
	// reads them from their files, which their servers lend to it.
	NetworkOnly bool
	// Patience is how long an operation goes on without any progress, because servers do not
	// answer, before it fails with Unavailable. Default 60 s, and 10 s for Open where nobody listens.
	Patience time.Duration
	// ReadAhead is the most bytes that are fetched ahead of one sequential reader, 1 MiB to
	// 64 MiB; it is less where more would not be faster. Default 8 MiB.
	ReadAhead int
	// Parallel is how many chunks one Put writes at the same time, 1 to 16. Default 3.
	Parallel int
	// UID and GID say whose what this client makes is. Default: Open takes those of the process,
	// New 0.
	UID, GID *uint32
	// Network is how servers are reached, for Open. Default rpc.TCP.
	Network rpc.Network
	// Key is the cluster's secret, for Open; nil if the cluster has none.
	Key []byte
	// Log is told of replicas that are passed over. Default: nothing is logged.
	Log *slog.Logger
}

func (o *Options) withDefaults() {
	if o.Clock == nil {
		o.Clock = clock.System()
	}
	if o.Patience <= 0 {
		o.Patience = time.Minute
	}
	if o.ReadAhead <= 0 {
		o.ReadAhead = 8 << 20
	}
	o.ReadAhead = min(max(o.ReadAhead, segmentBytes), 64<<20)
	if o.Parallel <= 0 {
		o.Parallel = 3
	}
	o.Parallel = min(o.Parallel, 16)
	if o.Network == nil {
		o.Network = rpc.TCP
	}
	if o.UID == nil {
		o.UID = new(uint32)
	}
	if o.GID == nil {
		o.GID = new(uint32)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// FS is a client of one cluster. Safe for use by many goroutines.
type FS struct {
	masters quarry.Master
	servers func(quarry.Member) quarry.ChunkServer
	opts    Options
	clock   clock.Clock
	log     *slog.Logger

	ctx     context.Context // ends with Close; background work belongs to it
	cancel  context.CancelFunc
	work    sync.WaitGroup // background work
	release func()         // of what Open made

	mu     sync.Mutex
	closed bool

	sessions sessions
	health   *health.Memory
	writes   *flight.Control // bounds the bytes that are sent and not acknowledged
	reads    *flight.Control // bounds those that are asked for and have not come
	crowd    window.Crowd
	lent     *lent.Files   // nil: every replica is read over the network
	reports  chan struct{} // a token for each report under way
}

var _ FileSystem = (*FS)(nil)

// reportsMax bounds the reports to the masters that are under way; further ones are dropped,
// whoever meets the replica next reports it again.
const reportsMax = 4

// New returns a client that reaches the masters and the chunk servers through the given
// stubs, which are not closed by it. servers is called for each request and may be called by
// many goroutines; it returns at once.
func New(masters quarry.Master, servers func(quarry.Member) quarry.ChunkServer, opts Options) *FS {
	opts.withDefaults()
	f := &FS{
		masters: masters, servers: servers, opts: opts, clock: opts.Clock, log: opts.Log,
		release: func() {}, reports: make(chan struct{}, reportsMax),
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.sessions.init(f)
	f.health, f.writes, f.reads = health.New(f.clock), flight.New(f.clock), flight.New(f.clock)
	return f
}

// closeMax is how long Close waits for a session that is being opened, and for the masters to end the
// sessions; they expire anyway.
const closeMax = 2 * time.Second

// Close ends all sessions and everything that was opened. Appends that are not acknowledged
// have an unknown outcome; close writers first.
func (f *FS) Close() error {
	f.mu.Lock()
	was := f.closed
	f.closed = true
	f.mu.Unlock()
	f.cancel()
	f.work.Wait()
	if !was {
		f.sessions.close()
		f.release()
	}
	return nil
}

// background runs work that belongs to the FS and not to a call; false if it is closing.
func (f *FS) background(run func(context.Context)) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.work.Go(func() { run(f.ctx) })
	return true
}

// bound derives a context that also ends with the FS.
func (f *FS) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(f.ctx, func() { cancel(errClosed) })
	return ctx, func() { stop(); cancel(context.Canceled) }
}

// linger derives a context that ends closeMax after a given one, or after the beginning of Close.
func (f *FS) linger(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, unbind := f.bound(ctx)
	out, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		_ = f.clock.Sleep(out, closeMax) // it ends with out at the latest
		cancel(context.Cause(ctx))
	})
	return out, func() { stop(); cancel(nil); unbind() }
}

func (f *FS) patience() waiting.Tries { return waiting.NewTries(f.clock, f.opts.Patience) }

// Cluster returns which cluster it is.
func (f *FS) Cluster(ctx context.Context) (quarry.ClusterID, error) {
	topology, err := f.masters.Topology(ctx)
	if err != nil {
		return quarry.ClusterID{}, fail("topology", "", err)
	}
	return topology.Cluster, nil
}
