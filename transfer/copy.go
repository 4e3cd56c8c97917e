package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

const (
	// ParallelMax is the most files that are under way at a time.
	ParallelMax = 256
	// ParallelDefault is how many are if nobody says it. Small files share the syncs of the masters' logs, so
	// more of them at a time are stored faster; large ones are bounded by memory before.
	ParallelDefault = 64
	// memoryBudget is shared by all files that are under way; a large one takes fileMemory of it, a
	// small one its size and smallMemory.
	memoryBudget = 96 << 20
	fileMemory   = 24 << 20 // three chunks at a time, 8 MiB of each
	smallMemory  = 256 << 10
)

// Options say how a [Copy] or [Sync] is done.
type Options struct {
	Clock     clock.Clock // default: the machine's
	Parallel  int         // files at a time, 1 to ParallelMax; default ParallelDefault
	Limit     *Limiter    // nil: none
	Recursive bool        // directories are copied with all that is in them
	Preserve  bool        // files keep their modes, and those of the cluster their times, too
	Keep      bool        // a file that exists is not replaced: it fails with Exists
	// Resume has files of 64 MiB and more go on where an earlier transfer of the same bytes ended,
	// and leaves something of them when one fails; see [PutOptions]. It does nothing within a cluster.
	Resume   bool
	Progress Progress // nil: nobody looks
	// Report is told of everything that was done or failed, by one goroutine at a time. Nil: nobody.
	Report func(Event)
}

// Progress is told how far transfers are. Safe for use by many goroutines.
type Progress interface {
	// Found adds to what is known to come.
	Found(files, bytes int64)
	// Begin tells of a file whose transfer begins; size is what was seen of it before.
	Begin(name string, size int64) Bar
}

// Bar is the progress of one file.
type Bar interface {
	// Add tells of n bytes more.
	Add(n int)
	// End tells that the file is done or, with an error, is not.
	End(err error)
}

// Event is something that a [Copy] or [Sync] did, would do, or could not do.
type Event struct {
	Action string // "copy", "mkdir", "delete", "skip", "anew": what an earlier transfer has left is of no use
	From   string
	To     string
	Size   int64
	Why    string // of "skip" and "anew"
	Err    error  // not nil: it failed
}

// Summary counts what was done.
type Summary struct {
	Files   int64 `json:"files"`
	Bytes   int64 `json:"bytes"`
	Dirs    int64 `json:"directories"`
	Same    int64 `json:"same"`    // files that were alike on both sides
	Deleted int64 `json:"deleted"` // files, and whole directories
	Skipped int64 `json:"skipped"` // what is neither file nor directory
	Failed  int64 `json:"failed"`
}

// Copy copies pairs. A file that fails does not keep others from being copied; when the cluster
// or a disk cannot go on, the rest is given up. The error is the first one, and tells how many
// there were.
func Copy(ctx context.Context, from, to Tree, pairs []Pair, o Options) (Summary, error) {
	for _, p := range pairs {
		if err := checkApart(from, to, p.From.Path, p.To); err != nil {
			return Summary{}, err
		}
		switch {
		case p.From.Kind == Dir && !o.Recursive:
			return Summary{}, quarry.Errorf("copy", quarry.IsDir, p.From.Path, "give --recursive to copy directories")
		case p.From.Kind == Other && len(pairs) > 1:
			return Summary{}, quarry.Errorf("copy", quarry.Invalid, p.From.Path, "only files and directories can be copied")
		}
	}
	r := newRun(ctx, from, to, o)
	defer r.cancel(nil)
	if o.Progress != nil {
		defer r.count(pairs)()
	}
	for _, p := range pairs {
		if r.ctx.Err() != nil {
			break
		}
		if p.From.Kind == Dir {
			r.tree(p.From, p.To)
		} else {
			r.file(p.From, p.To)
		}
	}
	return r.end(ctx)
}

// count tells who looks how much there is to copy, ahead of the copying, which walks only as fast as it
// has room. It returns what ends it. What cannot be walked the copying meets, too, and tells.
func (r *run) count(pairs []Pair) (end func()) {
	r.counted = true
	ctx, cancel := context.WithCancel(r.ctx)
	var walking sync.WaitGroup
	walking.Go(func() {
		for _, p := range pairs {
			_ = walk(ctx, r.from, p.From, 0, func(e Entry, _ int) error {
				if e.Kind == File {
					r.o.Progress.Found(1, e.Size)
				}
				return ctx.Err()
			})
		}
	})
	return func() { cancel(); walking.Wait() }
}

// run is one Copy or Sync under way.
type run struct {
	from, to Tree
	o        Options
	ctx      context.Context
	cancel   context.CancelCauseFunc
	slots    chan struct{} // a token for each file under way
	memory   *semaphore.Weighted
	work     sync.WaitGroup
	counted  bool // what there is to copy is told by count

	mu    sync.Mutex // guards what follows; held while Report runs
	sum   Summary
	first error
}

func newRun(ctx context.Context, from, to Tree, o Options) *run {
	if o.Clock == nil {
		o.Clock = clock.System()
	}
	if o.Parallel <= 0 {
		o.Parallel = ParallelDefault
	}
	if o.Limit == nil {
		o.Limit = NewLimiter(o.Clock, 0)
	}
	if o.Progress == nil {
		o.Progress = nobody{}
	}
	r := &run{from: from, to: to, o: o, slots: make(chan struct{}, min(o.Parallel, ParallelMax)), memory: semaphore.NewWeighted(memoryBudget)}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	return r
}

// end waits for the files under way and tells what came of everything.
func (r *run) end(ctx context.Context) (Summary, error) {
	r.work.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return r.sum, context.Cause(ctx)
	case r.sum.Failed > 1:
		return r.sum, fmt.Errorf("%d failed; the first: %w", r.sum.Failed, r.first)
	}
	return r.sum, r.first
}

// did counts what was done, and reports it.
func (r *run) did(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case e.Err != nil:
		if r.ctx.Err() != nil && r.sum.Failed > 0 {
			return // given up
		}
		r.sum.Failed++
		if r.first == nil {
			r.first = e.Err
		}
		if hopeless(e.Err) {
			r.cancel(e.Err)
		}
	case e.Action == "copy":
		r.sum.Files++
		r.sum.Bytes += e.Size
	case e.Action == "mkdir":
		r.sum.Dirs++
	case e.Action == "delete":
		r.sum.Deleted++
	case e.Action == "skip":
		r.sum.Skipped++
	}
	if r.o.Report != nil {
		r.o.Report(e)
	}
}

// hopeless reports whether an error will meet every other file, too.
func hopeless(err error) bool {
	switch quarry.KindOf(err) {
	case quarry.Unavailable, quarry.NoSpace, quarry.WrongCluster:
		return true
	}
	return false
}

// tree copies a directory and everything in it.
func (r *run) tree(from Entry, to string) {
	if !r.mkdir(from.Path, to) {
		return
	}
	for e, err := range r.from.List(r.ctx, from.Path) {
		switch {
		case r.ctx.Err() != nil:
			return
		case err != nil:
			r.did(Event{Action: "copy", From: from.Path, To: to, Err: err})
			return
		}
		r.entry(e, r.to.Join(to, e.Name))
	}
}

// entry copies what was found in a tree.
func (r *run) entry(e Entry, to string) {
	switch e.Kind {
	case File:
		r.file(e, to)
	case Dir:
		r.tree(e, to)
	default:
		r.did(Event{Action: "skip", From: e.Path, To: to, Why: "it is neither a file nor a directory, nor a link to a file"})
	}
}

// mkdir makes a directory; false if that fails.
func (r *run) mkdir(from, to string) bool {
	err := r.to.Mkdir(r.ctx, to)
	r.did(Event{Action: "mkdir", From: from, To: to, Err: err})
	return err == nil
}

// file begins to copy a file, when there is room for it.
func (r *run) file(e Entry, to string) {
	if !r.counted {
		r.o.Progress.Found(1, e.Size)
	}
	r.start(e.Size, func() {
		bar := r.o.Progress.Begin(e.Path, e.Size)
		n, err := r.copy(e, to, bar)
		bar.End(err)
		r.did(Event{Action: "copy", From: e.Path, To: to, Size: n, Err: err})
	})
}

// start runs work on a file of a size when there is room for it, unless all is given up before.
func (r *run) start(size int64, do func()) {
	weight := min(size+smallMemory, fileMemory)
	if r.memory.Acquire(r.ctx, weight) != nil {
		return
	}
	select {
	case r.slots <- struct{}{}:
	case <-r.ctx.Done():
		r.memory.Release(weight)
		return
	}
	r.work.Go(func() {
		defer func() { <-r.slots; r.memory.Release(weight) }()
		do()
	})
}

// copy copies one file and returns how many bytes it had.
func (r *run) copy(e Entry, to string, bar Bar) (int64, error) {
	in, err := r.from.Open(r.ctx, e.Path)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	o := PutOptions{Size: e.Size, Modified: e.Modified, Keep: r.o.Keep, Preserve: r.o.Preserve, Mode: e.Mode}
	if r.o.Resume && e.Size >= resumeMin {
		o.Resume, o.Skipped = e.ID, func(n int64) { bar.Add(int(n)) }
		o.Anew = func(why string) { r.did(Event{Action: "anew", From: e.Path, To: to, Why: why}) }
	}
	return r.put(in, to, o, bar)
}

// put stores a source under a name and returns how many bytes it had.
func (r *run) put(in Source, to string, o PutOptions, bar Bar) (int64, error) {
	var total atomic.Int64
	o.Moved = func(n int) error {
		total.Add(int64(n))
		bar.Add(n)
		return r.o.Limit.Wait(r.ctx, n)
	}
	err := r.to.Put(r.ctx, to, in, o)
	return total.Load(), err
}

// nobody looks at the progress.
type nobody struct{}

func (nobody) Found(int64, int64)      {}
func (nobody) Begin(string, int64) Bar { return nobody{} }
func (nobody) Add(int)                 {}
func (nobody) End(error)               {}

// Stream stores what a reader gives under a path, whole; size is how much will come, 0 if that is
// not known. A regular file is read at several places at the same time.
func Stream(ctx context.Context, to Quarry, in io.Reader, size int64, path string, o Options) (Summary, error) {
	r := newRun(ctx, nil, to, o)
	defer r.cancel(nil)
	r.o.Progress.Found(1, size)
	r.start(size, func() {
		bar := r.o.Progress.Begin(path, size)
		source, ok := in.(Source)
		if !ok {
			source = onlyReader{in}
		}
		n, err := r.put(source, path, PutOptions{Size: size, Keep: r.o.Keep}, bar)
		bar.End(err)
		r.did(Event{Action: "copy", From: "-", To: path, Size: n, Err: err})
	})
	return r.end(ctx)
}

// onlyReader is a source that can only be read once, in order.
type onlyReader struct{ io.Reader }

func (onlyReader) ReadAt([]byte, int64) (int, error) { return 0, errors.ErrUnsupported }
func (onlyReader) Seek(int64, int) (int64, error)    { return 0, errors.ErrUnsupported }
func (onlyReader) Close() error                      { return nil }
