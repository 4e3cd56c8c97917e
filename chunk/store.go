package chunk

import (
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/tidwall/btree"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/journal"
)

// Options are the settings of a store; zero values mean the defaults.
type Options struct {
	// Identity is what the folder is expected to be; zero fields match anything. An empty
	// folder is made the disk that it names.
	Identity Identity
	// Now is the time of day, in which files that nobody knows go to the trash.
	Now time.Time
	// ReserveBytes is kept free for the journal, indexes and deletions; chunks do not get
	// it. Default: a fiftieth of the disk, at least 256 MiB but not more than a quarter, and
	// at most 16 GiB.
	ReserveBytes int64
	// JournalBytes is how much the journal grows before a checkpoint shortens it: 16 KiB to
	// 1 GiB, default 64 MiB.
	JournalBytes int64
	// UnsyncedBytesMax bounds the bytes written and not yet durable, over all chunks; Write
	// waits at the bound. Default 64 MiB.
	UnsyncedBytesMax int64
	// FilesMax bounds the files that are kept open, beside those that are being read; Write
	// waits while so many chunks are unsynced. Up to half as many growing chunks share the
	// journal's syncs, beyond that each batch costs a sync of its chunk's file. Default 256.
	FilesMax int
	// IndexBytes bounds the memory for checksums and records of sealed chunks. Default 32 MiB.
	IndexBytes int64
	// Workers is how many files are synced at the same time. Default 8.
	Workers int

	inlineBytes int64 // at most inlineBytesMax; where a test wants less
}

func (o Options) withDefaults(total int64) Options {
	if o.ReserveBytes == 0 {
		o.ReserveBytes = min(max(total/50, min(256<<20, total/4)), 16<<30)
	}
	if o.JournalBytes == 0 {
		o.JournalBytes = 64 << 20
	}
	o.JournalBytes = min(max(o.JournalBytes, 16<<10), 1<<30)
	if o.UnsyncedBytesMax == 0 {
		o.UnsyncedBytesMax = 64 << 20
	}
	if o.FilesMax == 0 {
		o.FilesMax = 256
	}
	if o.IndexBytes == 0 {
		o.IndexBytes = 32 << 20
	}
	if o.Workers == 0 {
		o.Workers = 8
	}
	if o.inlineBytes == 0 {
		o.inlineBytes = inlineBytesMax
	}
	return o
}

// Store is the chunks of one disk. Safe for use by many goroutines.
//
// What changes a replica is asked for by a method that returns at once, and done, if not
// nil, is called when the change is durable, or refused, or when the disk is retired. The
// changes of one replica are made, and their callbacks called, in the order in which they
// were asked for, and each after all bytes written before it are durable. done is called
// from a goroutine of the store and must be quick; it may call methods that return at once,
// and must not call Write or Close. What is asked of a disk that was retired because it does not
// answer is refused at once, before what waits for it.
//
// A store whose disk failed is retired: from then on every call fails with an Unavailable
// error that says why, see Err and Done.
type Store struct {
	fs      disk.FS
	opts    Options
	lock    io.Closer
	journal *journal.Journal
	files   *fileCache
	indexes *indexCache
	purging sync.Mutex // held while a replica is purged; taken before mu

	mu          sync.Mutex
	identity    Identity
	incarnation quarry.Incarnation
	replicas    btree.Map[quarry.Handle, *replica]
	dirs        map[string]bool // folders known to be there
	dirty       map[*replica]struct{}
	trash       btree.Map[string, trashed]
	trashBytes  int64  // of all in trash
	unsynced    int64  // bytes written, or about to be, and not durable
	reserved    int64  // bytes promised to growing chunks and copies, and not written
	pinned      int    // files that must stay open
	asked       int    // ops that are not done
	crowd       int    // calls of Write that wait for room
	writing     int    // calls of Write, Measure and purges that are under way
	ended       int64  // ops and such calls that have come to an end
	editions    uint64 // the last one given
	space       space  // as last measured
	hung        bool   // given up because it does not answer
	closed      bool
	failed      error
	done        chan struct{} // closed when failed is set

	ready   []*round // for the committer
	work    []*round // for the workers
	stopped bool
	check   checkpoint

	loggable sync.Cond // ready is not empty, or the committer must look around
	workable sync.Cond // work is not empty, or stopped
	room     sync.Cond // unsynced has fallen, or failed
	idle     sync.Cond // asked or writing is 0
	running  sync.WaitGroup
}

// replica is one replica in memory. Store.mu guards it.
type replica struct {
	state  State   // durable; Status ReplicaMissing while it is being made
	growth *growth // if state.growing()

	queue   []*op // asked for, in order
	eager   int   // ops in queue that somebody waits for
	ending  int   // ops in queue or under way that end the growth, or the replica
	busy    bool  // a round is under way
	urgent  bool  // to be synced though nobody asked
	image   bool  // to be logged whole, for the checkpoint
	copying bool  // a copy is being received

	// edition is another one after every change but growth, so whenever bytes have gone away or
	// another file has come: whoever has read meanwhile looks again. 0: never published.
	edition uint64
}

// growth is what is known of a replica to which records may be added.
type growth struct {
	write sync.Mutex // held by the one Write; taken before Store.mu

	// All bytes written, durable or not.
	sums sums
	runs []quarry.RecordRun

	durableTail uint32 // checksum of the last block of the durable bytes
	captured    int64  // so many bytes are durable or in the round under way
	small       []byte // the bytes behind captured, while they are few
	file        *openFile
	writeback   int64 // the system was asked to write so many bytes
	segments    []segment
	replayed    []byte // during Open: durable bytes that only the journal has
}

func newGrowth(s sums, runs []quarry.RecordRun) *growth {
	return &growth{sums: s, runs: runs, durableTail: s.last(), captured: s.length, writeback: s.length}
}

// Open opens the disk in a folder, or makes one of an empty folder. It reads the journal,
// compares what it says with the files, and marks replicas whose files hold less than they
// did as lost, and those whose last bytes do not match as corrupt.
//
// Errors are Busy if the folder is open elsewhere, WrongCluster, Invalid if it is another
// disk or another server's, Unsupported if a later release wrote it, Corrupt if the journal
// has rotted, and NotFound if the folder is empty and Options.Identity does not say what to
// make of it.
func Open(fsys disk.FS, opts Options) (*Store, error) {
	total, free, err := fsys.Usage()
	if err != nil {
		return nil, disk.Wrap("open disk", "", err)
	}
	s := &Store{
		fs: fsys, opts: opts.withDefaults(total), done: make(chan struct{}),
		dirs: map[string]bool{}, dirty: map[*replica]struct{}{},
		space: space{total: total, free: free}, editions: rand.Uint64(),
	}
	s.files = newFileCache(fsys, s.opts.FilesMax)
	s.indexes = newIndexCache(s.opts.IndexBytes)
	for _, c := range []*sync.Cond{&s.loggable, &s.workable, &s.room, &s.idle} {
		c.L = &s.mu
	}
	if s.lock, err = fsys.Lock(lockName); err != nil {
		return nil, disk.Wrap("open disk", lockName, err)
	}
	if err := s.open(); err != nil {
		return nil, errors.Join(err, s.release())
	}
	s.running.Add(1 + s.opts.Workers)
	go s.commitRounds()
	for range s.opts.Workers {
		go s.workRounds()
	}
	return s, nil
}

// open reads what the folder holds.
func (s *Store) open() (err error) {
	if s.identity, err = identify(s.fs, s.opts.Identity); err != nil {
		return err
	}
	opts := journal.Options{SegmentBytes: s.opts.JournalBytes / 4}
	p := replayer{s, map[quarry.Handle]bool{}}
	s.journal, err = journal.Open(s.fs, journalName, opts, func(_ journal.Position, b []byte) error { return p.replay(b) })
	if err == nil {
		err = p.end()
	}
	if err != nil {
		return quarry.Wrap("open disk", journalName, err)
	}
	s.check.due = s.opts.JournalBytes
	return s.recover()
}

// release closes what Open has opened.
func (s *Store) release() error {
	var err error
	if s.journal != nil {
		err = s.journal.Close()
	}
	s.files.close()
	return errors.Join(err, s.lock.Close())
}

// Close finishes what was asked for, refuses everything else, and releases the folder. Reads
// must have ended. It returns why the disk was retired, if it was. A disk that does not
// answer (see Retire) is not waited for: its folder stays locked until it does.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.room.Broadcast() // who waits for room is refused
	defer s.mu.Unlock()
	over, err := false, error(nil)
	go func() {
		ended := s.finish()
		s.mu.Lock()
		defer s.mu.Unlock()
		over, err = true, ended
		s.idle.Broadcast()
	}()
	for !over {
		if s.hung && s.failed != nil {
			return s.failed
		}
		s.idle.Wait()
	}
	return err
}

// finish ends the work that is under way and the goroutines that do it.
func (s *Store) finish() error {
	s.mu.Lock()
	s.syncDirty()
	for s.asked > 0 || s.writing > 0 {
		s.idle.Wait()
	}
	s.stopped = true
	s.loggable.Broadcast()
	s.workable.Broadcast()
	s.room.Broadcast()
	err := s.failed
	s.mu.Unlock()
	s.running.Wait()
	return errors.Join(err, s.release())
}

// Identity returns whose disk this is.
func (s *Store) Identity() Identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.identity
}

// Incarnation returns the highest incarnation of its server that the disk has seen.
func (s *Store) Incarnation() quarry.Incarnation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.incarnation
}

// SetIncarnation notes, durably, an incarnation of the server.
func (s *Store) SetIncarnation(n quarry.Incarnation) error {
	s.mu.Lock()
	if err := s.usable(); err != nil {
		s.mu.Unlock()
		return err
	}
	s.incarnation = max(s.incarnation, n) // before the journal: a checkpoint does not lose it
	s.mu.Unlock()
	rec := record{Kind: recordServer, Number: uint64(n)}
	if _, err := s.journal.Write(rec.encode(nil)); err != nil {
		return s.fail(err)
	}
	return nil
}

// Err returns why the disk was retired, or nil.
func (s *Store) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// Done returns a channel that is closed when the disk is retired.
func (s *Store) Done() <-chan struct{} { return s.done }

// fail retires the disk, because its content cannot be relied upon after err. It returns the
// error with which every call fails from now on.
func (s *Store) fail(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return s.failed
	}
	s.failed = quarry.Errorf("chunk", quarry.Unavailable, "disk "+s.identity.Disk.String(),
		"the disk is retired, because it failed: %v", err)
	close(s.done)
	s.room.Broadcast()
	s.replicas.Scan(func(_ quarry.Handle, r *replica) bool {
		s.schedule(r)
		return true
	})
	return s.failed
}

// failure returns the error of an operation on a file: one that retires the disk, but for a
// full disk.
func (s *Store) failure(op, name string, err error) error {
	if disk.IsNoSpace(err) {
		return disk.Wrap(op, name, err)
	}
	return s.fail(disk.Wrap(op, name, err))
}

// usable returns why the store cannot be used, or nil.
func (s *Store) usable() error {
	if s.failed != nil {
		return s.failed
	}
	if s.closed {
		return quarry.Errorf("chunk", quarry.Unavailable, "", "the disk is being closed")
	}
	return nil
}

// State returns what is durable of a replica; false if there is none.
func (s *Store) State(h quarry.Handle) (State, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.replica(h).state
	return st, st.Exists()
}

// Edition returns the edition of a replica. It stays while the replica only grows, in one file, and
// never comes again. Editions begin at a random number with each Open, so that no other store, nor
// this one after a restart, has the same. If there is no replica it is none that was lent.
func (s *Store) Edition(h quarry.Handle) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.replica(h).edition
}

// newEdition returns an edition that no replica has had. s.mu is held.
func (s *Store) newEdition() uint64 {
	s.editions++
	return s.editions
}

// replica returns the replica of a handle: one that does not exist if there is none.
func (s *Store) replica(h quarry.Handle) *replica {
	r, ok := s.replicas.Get(h)
	if !ok {
		r = &replica{state: State{Handle: h, Status: quarry.ReplicaMissing}}
	}
	return r
}

// Inventory returns the durable states of at most limit replicas with from <= handle <= to, in
// the order of their handles.
func (s *Store) Inventory(from, to quarry.Handle, limit int) []State {
	var states []State
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replicas.Ascend(from, func(h quarry.Handle, r *replica) bool {
		if h > to || len(states) == limit {
			return false
		}
		if r.state.Exists() {
			states = append(states, r.state)
		}
		return true
	})
	return states
}
