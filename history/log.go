package history

import (
	"context"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/clock"
)

const (
	// logTurns is how many times as long as on a file a worker stays with a log: the checker of
	// logs does not search.
	logTurns = 50
	// burstMax is how many records a burst has at most.
	burstMax = 8
	// readMax is how many bytes of a log one operation reads at most.
	readMax = 4 << 20
)

// log returns the log to work on, which exists; "" if the worker is to stop.
func (w *worker) log() string {
	turn := w.opts.Turn * logTurns
	log := w.subject(ClassLog, w.onLogs, turn, w.opts.Logs)
	w.reached.set(w.onLogs / turn)
	w.onLogs++
	if !w.ensure(ClassLog, log) {
		return ""
	}
	return log
}

// record returns the next record of the worker and the operation that appends it.
func (w *worker) record(log string) ([]byte, Op) {
	op := w.op(KindAppend, ClassLog, log)
	op.Sequence, op.Length = w.sequence, int64(w.length(w.opts.RecordBytes))
	w.sequence++
	return RecordBytes(log, Record{w.id, op.Sequence, uint32(op.Length)}), op
}

func (w *worker) appendOne() {
	log := w.log()
	if log == "" {
		return
	}
	data, op := w.record(log)
	op = w.do(op, func(ctx context.Context, op *Op) error {
		a, err := w.appender(ctx, log)
		if err != nil {
			return err
		}
		op.Appender = w.appenders
		op.Offset, err = a.Append(ctx, data)
		return err
	})
	w.appended(op)
}

// appendBurst has several records on their way at the same time.
func (w *worker) appendBurst() {
	log := w.log()
	if log == "" {
		return
	}
	ctx, cancel := w.opts.Clock.WithTimeout(w.life, w.opts.Timeout)
	defer cancel()
	a, err := w.appender(ctx, log)
	var flying sync.WaitGroup
	var mu sync.Mutex
	var done []Op
	for range 2 + w.rng.IntN(burstMax-1) {
		data, op := w.record(log)
		op.Appender = w.appenders
		number, ok := w.rec.Begin(op)
		if !ok {
			break
		}
		if w.left > 0 {
			w.left--
		}
		flying.Add(1)
		end := func(offset int64, err error) {
			op.Offset = offset
			op.Outcome, op.Error = outcomeOf(err)
			w.rec.End(number, op)
			mu.Lock()
			done = append(done, op)
			mu.Unlock()
			flying.Done()
		}
		if err != nil {
			end(0, err)
			break
		}
		if err = a.AppendFunc(ctx, data, end); err != nil {
			end(0, err)
			break
		}
	}
	// A record that nobody acknowledges is waited for until its time is over; it is then
	// recorded as what it is: not returned.
	all := make(chan struct{})
	go func() { flying.Wait(); close(all) }()
	select {
	case <-all:
	case <-ctx.Done():
	}
	mu.Lock()
	defer mu.Unlock()
	for _, op := range done {
		w.appended(op)
	}
}

// appended draws conclusions from an append that is over.
func (w *worker) appended(op Op) {
	switch {
	case op.Outcome == Done:
		w.ends[op.Subject] = max(w.ends[op.Subject], op.End())
	case op.Error == quarry.NotFound || w.rng.IntN(4) == 0:
		w.closeAppender() // sometimes what comes after an error takes the way of a new one
	}
}

// appender returns the appender that is kept for the log that is appended to.
func (w *worker) appender(ctx context.Context, log string) (*client.Appender, error) {
	if w.appends != nil && w.appendTo == log {
		return w.appends, nil
	}
	w.closeAppender()
	life, cancel := context.WithCancel(w.life)
	stop := context.AfterFunc(ctx, cancel) // the look-up takes no longer than the operation may
	a, err := w.files.Appender(life, log)
	if err != nil || !stop() {
		cancel()
		if err == nil {
			_ = a.Close() // nothing was appended with it
			err = quarry.Errorf("appender", quarry.Unavailable, log, "%w", context.Cause(ctx))
		}
		return nil, err
	}
	w.appends, w.appendTo = a, log
	w.appenders++
	w.endAppends = cancel
	return a, nil
}

// closeAppender ends the appender that is kept; it does not wait for records under way.
func (w *worker) closeAppender() {
	if w.appends != nil {
		w.endAppends()
		_ = w.appends.Close() // what became of each record is recorded already
		w.appends = nil
	}
}

// readLog reads a range of a log: near its end, from its beginning, or anywhere.
func (w *worker) readLog() {
	log := w.log()
	if log == "" {
		return
	}
	end := w.ends[log]
	offset, aligned := end, true
	switch w.rng.IntN(4) {
	case 0:
		offset = 0
	case 1:
		offset = w.rng.Int64N(end + 1)
		aligned = offset == 0
	}
	length := 1 + w.rng.Int64N(int64(4*w.opts.RecordBytes))
	op := w.op(KindRead, ClassLog, log)
	op.Offset = offset
	op = w.do(op, func(ctx context.Context, op *Op) error {
		f, err := w.files.Open(ctx, log)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = readRange(ctx, f, op, length, aligned)
		return err
	})
	if op.Outcome == Done && op.ToEnd {
		w.ends[log] = max(w.ends[log], op.End())
	}
}

// readRange reads length bytes at op.Offset and notes what they are. It returns how many of
// them belong to a record that the range cuts.
func readRange(ctx context.Context, f *client.File, op *Op, length int64, aligned bool) (cut int64, err error) {
	p := make([]byte, length)
	n, err := f.ReadAtContext(ctx, p, op.Offset)
	switch {
	case err == io.EOF:
		op.ToEnd = true
	case err != nil:
		return 0, err
	}
	var at int
	op.Length = int64(n)
	op.Seen, at, op.Bad = parseLog(op.Subject, p[:n], op.Offset, aligned)
	return int64(n - at), nil
}

func (w *worker) statLog() {
	log := w.log()
	if log == "" {
		return
	}
	op := w.do(w.op(KindStat, ClassLog, log), func(ctx context.Context, op *Op) error {
		info, err := w.files.Stat(ctx, log)
		op.Length = info.Attr.Length
		return err
	})
	if op.Outcome == Done {
		w.ends[log] = max(w.ends[log], op.Length)
	}
}

// tail follows one log after the other, each for some seconds.
func (w *worker) tail() {
	for w.goesOn() {
		log := w.subject(ClassLog, w.reached.get(), 1, w.opts.Logs)
		life := time.Second + time.Duration(w.rng.Int64N(int64(9*time.Second)))
		if w.ensure(ClassLog, log) {
			w.follow(log, w.rng.IntN(3) > 0, life)
		}
	}
}

// follow tails a log, from its beginning or its present end, for a time.
func (w *worker) follow(log string, whole bool, life time.Duration) {
	ctx, cancel := w.opts.Clock.WithTimeout(w.life, life)
	defer cancel()
	from := int64(-1)
	if whole {
		from = 0
	}
	call := w.rec.Now()
	t, err := w.files.Tail(ctx, log, from)
	if err != nil {
		w.failedTail(ctx, log, call, err)
		return
	}
	defer t.Close()
	var kept []byte // of a record that has not come whole
	buf := make([]byte, 64<<10)
	aligned := true // a log ends where a record does
	for ctx.Err() == nil {
		call := w.rec.Now()
		begin := t.Offset() - int64(len(kept))
		n, err := t.Read(buf)
		if err != nil {
			w.failedTail(ctx, log, call, err)
			return
		}
		b := slices.Concat(kept, buf[:n])
		op := w.op(KindTail, ClassLog, log)
		op.Offset, op.Length, op.Outcome = begin, int64(len(b)), Done
		var cut int
		op.Seen, cut, op.Bad = parseLog(log, b, begin, aligned)
		if !w.rec.Add(call, op) || op.Bad != "" {
			return
		}
		kept = slices.Clone(b[cut:])
	}
}

// failedTail records that a tail failed, unless its time was over, and pauses.
func (w *worker) failedTail(ctx context.Context, log string, call clock.Instant, err error) {
	if ctx.Err() != nil {
		return
	}
	op := w.op(KindTail, ClassLog, log)
	op.Outcome, op.Error = outcomeOf(err)
	op.Outcome = Failed // it changes nothing
	w.rec.Add(call, op)
	_ = w.opts.Clock.Sleep(w.life, 100*time.Millisecond) // goesOn looks whether life has ended
}
