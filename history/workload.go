package history

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/clock"
)

// Options say what a workload does; the zero value of a field means the default.
type Options struct {
	// Seed decides everything: which operations, on what, and in which order each worker
	// does them.
	Seed uint64
	// Clock is what is waited by. Default: the machine's.
	Clock clock.Clock
	// Root is the directory below which everything is made. Default "/history".
	Root string
	// Workers is how many goroutines of each client do operations, 1 to 64. Default 4.
	Workers int
	// Operations is how many operations are done in all, setting up and tails not counted;
	// 0: no bound. Each worker does its share.
	Operations int
	// Duration is how long operations are begun; 0: no bound.
	Duration time.Duration
	// Pause is the mean pause between two operations of a worker. Default 0: none.
	Pause time.Duration
	// Timeout is how long one operation may take. Default 20 s.
	Timeout time.Duration
	// Mix says how often each operation is done. Default: [Swarm] of the seed.
	Mix Mix
	// Logs, Files and Trees are how many of each are worked on at a time, 1 to 1000.
	// Default 2, 3 and 1.
	Logs, Files, Trees int
	// Turn is how many operations a worker does on a file or tree before it goes on to the
	// next one, so that searches stay small; on a log it is 50 times as many. Default 25.
	Turn int
	// RecordBytes and FileBytes are the longest record and file; most are much shorter.
	// Defaults 16 KiB and 64 KiB, at most 1 MiB and 256 MiB.
	RecordBytes, FileBytes int
}

func (o *Options) withDefaults() {
	if o.Clock == nil {
		o.Clock = clock.System()
	}
	if o.Root == "" {
		o.Root = "/history"
	}
	between := func(v *int, least, usual, most int) {
		if *v == 0 {
			*v = usual
		}
		*v = min(max(*v, least), most)
	}
	between(&o.Workers, 1, 4, 64)
	between(&o.Logs, 1, 2, 1000)
	between(&o.Files, 1, 3, 1000)
	between(&o.Trees, 1, 1, 1000)
	between(&o.Turn, 1, 25, 10_000)
	between(&o.RecordBytes, HeaderBytes, 16<<10, maxRecordBytes)
	between(&o.FileBytes, HeaderBytes, 64<<10, 256<<20)
	if o.Timeout <= 0 {
		o.Timeout = 20 * time.Second
	}
	if o.Mix == (Mix{}) {
		o.Mix = Swarm(o.Seed)
	}
}

// Mix is how often each sort of operation is done, as weights; 0 is never.
type Mix struct {
	Append     int // one record to a log
	Burst      int // several records to a log, without waiting for each
	ReadLog    int // a range of a log
	StatLog    int // the length of a log
	Put        int // a whole file, replacing what has its name
	ReadFile   int // a whole file
	RemoveFile int
	Names      int // create, mkdir, put, read, rename, remove, undelete, list or stat in a tree
	Tails      int // goroutines of each client that follow logs; not a weight
}

// Swarm returns the mix of a seed. Seeds differ much: some only append, some only change
// names, so that between them they meet what an even mixture would hardly ever.
func Swarm(seed uint64) Mix {
	r := rand.New(rand.NewPCG(seed, 0x51a0))
	switch r.IntN(8) {
	case 0:
		return Mix{Append: 3, Burst: 1, Tails: 1}
	case 1:
		return Mix{Names: 1}
	case 2:
		return Mix{Put: 3, ReadFile: 4, RemoveFile: r.IntN(2)}
	case 3:
		return Mix{Append: 2, StatLog: 2, ReadLog: 2}
	}
	some := func(most int) int { return r.IntN(most + 1) }
	return Mix{
		Append: 2 + some(4), Burst: some(1), ReadLog: some(3), StatLog: some(2),
		Put: 1 + some(2), ReadFile: 1 + some(3), RemoveFile: some(1), Names: 2 + some(6), Tails: some(1),
	}
}

func (m Mix) total() int {
	return m.Append + m.Burst + m.ReadLog + m.StatLog + m.Put + m.ReadFile + m.RemoveFile + m.Names
}

// Run has the clients, which are several processes as far as the cluster can tell, work until
// the operations are done, the duration has passed, the recorder is full or ctx has ended.
// What fails is recorded and is no error of Run. The clients are not closed.
func Run(ctx context.Context, clients []client.FileSystem, rec *Recorder, opts Options) error {
	opts.withDefaults()
	if len(clients) == 0 || opts.Mix.total() == 0 {
		return quarry.Errorf("workload", quarry.Invalid, "", "%d clients and a mix of %d: there is nothing to do", len(clients), opts.Mix.total())
	}
	life, stop := context.WithCancel(ctx)
	defer stop()
	tailing, stopTails := context.WithCancel(life)
	defer stopTails()
	each := opts.Workers + opts.Mix.Tails
	var work, tails sync.WaitGroup
	for c, files := range clients {
		reached := new(reached)
		for i := range each {
			w := newWorker(life, files, rec, &opts, int32(c), int32(c*each+i))
			w.reached = reached
			if span := len(clients) * each * opts.Turn; HeaderBytes+span <= opts.FileBytes {
				w.span = span
			}
			if i >= opts.Workers {
				w.life = tailing
				tails.Go(w.tail)
				continue
			}
			if opts.Operations > 0 {
				n, place := len(clients)*opts.Workers, c*opts.Workers+i
				if w.left = (opts.Operations + n - 1 - place) / n; w.left == 0 {
					continue
				}
			}
			work.Go(w.run)
		}
	}
	work.Wait()
	stopTails()
	tails.Wait()
	return nil
}

// reached is how far the workers of a client have gone from log to log; their tails follow.
type reached struct {
	mu  sync.Mutex
	log int
}

func (r *reached) set(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = max(r.log, n)
}

func (r *reached) get() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log
}

// worker does one operation after the other.
type worker struct {
	life   context.Context
	files  client.FileSystem
	rec    *Recorder
	opts   *Options
	client int32
	id     int32
	rng    *rand.Rand
	span   int           // how many files may be put into a tree; 0: too many to be told apart by their lengths
	left   int           // operations to do; -1: no bound
	until  clock.Instant // begin nothing after it
	ready  map[string]bool

	reached    *reached
	sequence   uint32 // of the next record
	onLogs     int    // operations done on each sort of subject: they say whose turn it is
	onFiles    int
	onTrees    int
	appends    *client.Appender // to appendTo
	appenders  uint32           // how many there were so far
	appendTo   string
	endAppends context.CancelFunc
	ends       map[string]int64 // how long each log is known to be: a record ends there
}

func newWorker(life context.Context, files client.FileSystem, rec *Recorder, opts *Options, c, id int32) *worker {
	w := &worker{
		life: life, files: files, rec: rec, opts: opts, client: c, id: id, left: -1, until: Open,
		rng: rand.New(rand.NewPCG(opts.Seed, uint64(id)+1)), ready: map[string]bool{}, ends: map[string]int64{},
	}
	if opts.Duration > 0 {
		w.until = opts.Clock.Now().Add(opts.Duration)
	}
	return w
}

// goesOn reports whether another operation is to be begun.
func (w *worker) goesOn() bool {
	return w.left != 0 && w.life.Err() == nil && w.opts.Clock.Now() < w.until && !w.rec.Full()
}

func (w *worker) run() {
	defer w.closeAppender()
	for w.goesOn() {
		w.step()
		if w.opts.Pause > 0 {
			pause := time.Duration(w.rng.Int64N(2 * int64(w.opts.Pause)))
			_ = w.opts.Clock.Sleep(w.life, pause) // goesOn looks whether life has ended
		}
	}
}

// step does what the mix and the dice say.
func (w *worker) step() {
	m := w.opts.Mix
	n := w.rng.IntN(m.total())
	for _, choice := range []struct {
		weight int
		do     func()
	}{
		{m.Append, w.appendOne}, {m.Burst, w.appendBurst}, {m.ReadLog, w.readLog}, {m.StatLog, w.statLog},
		{m.Put, w.putFile}, {m.ReadFile, w.readFile}, {m.RemoveFile, w.removeFile}, {m.Names, w.names},
	} {
		if n < choice.weight {
			choice.do()
			return
		}
		n -= choice.weight
	}
}

// op returns an operation of this worker.
func (w *worker) op(kind Kind, class Class, subject string) Op {
	return Op{Client: w.client, Worker: w.id, Kind: kind, Class: class, Subject: subject}
}

// do records op around run, which puts results into it.
func (w *worker) do(op Op, run func(ctx context.Context, op *Op) error) Op {
	number, ok := w.rec.Begin(op)
	if !ok {
		op.Outcome, op.Error = Failed, quarry.Busy
		return op
	}
	if w.left > 0 && op.Class != ClassSetup {
		w.left--
	}
	ctx, cancel := w.opts.Clock.WithTimeout(w.life, w.opts.Timeout)
	defer cancel()
	err := run(ctx, &op)
	op.Outcome, op.Error = outcomeOf(err)
	w.rec.End(number, op)
	return op
}

// ensure makes the directory of a subject, and the subject itself if it is a log. It tries
// until it is there, or the worker is to stop.
func (w *worker) ensure(class Class, subject string) bool {
	if w.ready[subject] {
		return true
	}
	dir := subject
	if class != ClassNames {
		dir = w.opts.Root + "/" + class.String()
	}
	made := w.persist(w.op(KindMkdir, ClassSetup, dir), func(ctx context.Context, _ *Op) error {
		return w.files.MkdirAll(ctx, dir)
	})
	if made && class == ClassLog {
		made = w.persist(w.op(KindCreate, ClassSetup, subject), func(ctx context.Context, _ *Op) error {
			f, err := w.files.Create(ctx, subject)
			if err == nil {
				_ = f.Close() // nothing was written
			}
			if quarry.KindOf(err) == quarry.Exists {
				return nil
			}
			return err
		})
	}
	w.ready[subject] = made
	return made
}

// persist tries an operation until it is done.
func (w *worker) persist(op Op, run func(context.Context, *Op) error) bool {
	for w.goesOn() {
		if w.do(op, run).Outcome == Done {
			return true
		}
		_ = w.opts.Clock.Sleep(w.life, 100*time.Millisecond) // goesOn looks whether life has ended
	}
	return false
}

// subject returns the subject whose turn it is after done operations of this worker on its
// sort.
func (w *worker) subject(class Class, done, turn, count int) string {
	return fmt.Sprintf("%s/%s/%d", w.opts.Root, class, done/turn*count+w.rng.IntN(count))
}

// length returns a length from HeaderBytes to most: short ones are as frequent as long ones
// on a scale of powers.
func (w *worker) length(most int) int {
	top := most
	for top > 2*HeaderBytes && w.rng.IntN(4) != 0 {
		top /= 2
	}
	return HeaderBytes + w.rng.IntN(max(1, top-HeaderBytes+1))
}

// fileValue and treeValue are the values that a worker puts at one of its turns, from 1 on, at files
// and at trees: no two are equal.
func fileValue(id int32, turn int) uint64 { return uint64(id+1)<<32 | uint64(uint32(2*turn)) }
func treeValue(id int32, turn int) uint64 { return uint64(id+1)<<32 | uint64(uint32(2*turn+1)) }
