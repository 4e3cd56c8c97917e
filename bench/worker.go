package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/clock"
)

// WorkerArgs are the arguments with which this program is started to be a worker: a process that
// is some of a load's clients. It has to call [Work] then.
var WorkerArgs = []string{"bench", "worker"}

const (
	// processesMax bounds in how many processes clients are.
	processesMax = 64
	// workerStopTime is how long a worker may take to end when it is told to.
	workerStopTime = 10 * time.Second
	// workerTail is how much of what a worker says on its standard error is kept.
	workerTail = 4 << 10
)

// A worker is told what to do by its standard input and answers by its standard output, one JSON
// value after the other: an orders, which it answers when it has opened its client, and then jobs.
// It ends when its standard input does, so it does not outlive who started it.
type (
	orders struct {
		Verb   string
		Config Config // with the masters of the scene
		Key    []byte
		// Worker of Workers: client k belongs to worker k modulo Workers.
		Worker, Workers int
	}
	job struct {
		Phase int
		Round round
	}
	answer struct {
		Kinds map[string]*done
		CPU   time.Duration
		Error string
		Kind  quarry.Kind // of the error
	}
)

// Work is what a worker does. It returns when in ends, or with an error when what it reads is not
// what [Run] writes.
func Work(ctx context.Context, in io.Reader, out io.Writer) error {
	const op = "bench worker"
	decoder, encoder := json.NewDecoder(in), json.NewEncoder(out)
	var o orders
	if err := decoder.Decode(&o); err != nil {
		return quarry.Errorf(op, quarry.Invalid, "", "it is started by \"quarry bench --processes\", not by hand: %w", err)
	}
	v := Find(o.Verb)
	if v == nil || v.load == nil || o.Workers < 1 || o.Worker < 0 || o.Worker >= o.Workers {
		return quarry.Errorf(op, quarry.Invalid, o.Verb, "worker %d of %d cannot measure it", o.Worker, o.Workers)
	}
	o.Config.Key = o.Key
	o.Config.withDefaults(v)
	b := &run{Config: o.Config, verb: v, clock: clock.System()}
	l := v.load(b)
	fs, err := b.open(ctx, b.Masters)
	if err != nil {
		return err
	}
	defer fs.Close()
	if err := encoder.Encode(answer{}); err != nil {
		return quarry.Errorf(op, quarry.Internal, "", "%w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	jobs := make(chan job)
	go func() {
		defer close(jobs)
		defer cancel() // also in the middle of a job
		for {
			var j job
			if decoder.Decode(&j) != nil { // the end
				return
			}
			select {
			case jobs <- j:
			case <-ctx.Done():
				return
			}
		}
	}()
	for j := range jobs {
		if j.Phase < 0 || j.Phase >= len(l.phases) {
			return quarry.Errorf(op, quarry.Invalid, o.Verb, "it has no phase %d", j.Phase)
		}
		if err := encoder.Encode(b.part(ctx, fs, &o, l.phases[j.Phase], j.Round)); err != nil {
			return quarry.Errorf(op, quarry.Internal, "", "%w", err)
		}
	}
	return nil
}

// part is what one worker's clients do of a phase.
func (b *run) part(ctx context.Context, fs *client.FS, o *orders, p phase, r round) answer {
	t := newTally(b.clock)
	s, err := measure(ctx, b.clock, func(ctx context.Context) error {
		return each(ctx, share(r.Clients, o.Workers, o.Worker), func(ctx context.Context, i int) error {
			return p.work(ctx, fs, r, o.Worker+i*o.Workers, t)
		})
	})
	if err == nil && p.after != nil {
		err = p.after(ctx, b.Masters, t)
	}
	a := answer{Kinds: t.kinds, CPU: s.cpu}
	if err != nil {
		a.Error, a.Kind = err.Error(), quarry.KindOf(err)
	}
	return a
}

// team is the workers of a scene.
type team struct {
	clock   clock.Clock
	workers []*worker
}

type worker struct {
	name    string
	cmd     *exec.Cmd
	in      io.WriteCloser
	encoder *json.Encoder
	decoder *json.Decoder
	said    tail
	end     func() error // waits for its end, once; by one goroutine
}

// tail is the end of what was written to it.
type tail []byte

func (t *tail) Write(p []byte) (int, error) {
	*t = append(*t, p...)
	*t = (*t)[max(0, len(*t)-workerTail):]
	return len(p), nil
}

// hire starts the workers of a scene, which are ended with ctx at the latest. Also if it fails, the
// team has to be dismissed.
func (b *run) hire(ctx context.Context, masters []string) (*team, error) {
	t := &team{clock: b.clock}
	program, err := os.Executable()
	if err != nil {
		return t, quarry.Errorf("bench", quarry.Internal, "", "the program's own file is not known: %w", err)
	}
	cfg := b.Config
	cfg.Masters = masters
	for i := range b.Processes {
		w := &worker{name: fmt.Sprintf("worker %d of %d", i+1, b.Processes), cmd: exec.CommandContext(ctx, program, WorkerArgs...)}
		w.cmd.Stderr = &w.said
		// It does not outlive this process, and an interrupt from the terminal is ours alone.
		w.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
		if w.in, err = w.cmd.StdinPipe(); err != nil {
			return t, quarry.Errorf("bench", quarry.Internal, w.name, "%w", err)
		}
		out, err := w.cmd.StdoutPipe()
		if err == nil {
			err = w.cmd.Start()
		}
		if err != nil {
			return t, quarry.Errorf("bench", quarry.Internal, w.name, "it cannot be started: %w", err)
		}
		w.encoder, w.decoder, w.end = json.NewEncoder(w.in), json.NewDecoder(out), w.cmd.Wait
		t.workers = append(t.workers, w)
	}
	_, err = t.ask(ctx, func(i int) any {
		return orders{Verb: b.verb.Name, Config: cfg, Key: b.Key, Worker: i, Workers: b.Processes}
	})
	return t, err
}

// do has all workers do a job, and joins what they have done. After an error the team is of no more
// use: who is still at work is killed.
func (t *team) do(ctx context.Context, j job, all *tally) error {
	answers, err := t.ask(ctx, func(int) any { return j })
	if err != nil {
		return err
	}
	for _, a := range answers {
		all.add(a.Kinds, a.CPU)
	}
	return nil
}

// ask sends something to every worker and waits for all answers.
func (t *team) ask(ctx context.Context, what func(i int) any) ([]answer, error) {
	answers := make([]answer, len(t.workers))
	var first error
	var failed sync.Once
	var g sync.WaitGroup
	for i, w := range t.workers {
		g.Go(func() {
			err := w.encoder.Encode(what(i))
			if err == nil {
				err = w.decoder.Decode(&answers[i])
			}
			switch a := &answers[i]; {
			case err != nil:
				err = w.dead(err)
			case a.Error != "":
				err = quarry.Errorf("bench", a.Kind, w.name, "%s", a.Error)
			default:
				return
			}
			failed.Do(func() { // what follows is that they are killed
				first = err
				t.kill()
			})
		})
	}
	g.Wait()
	if ctx.Err() != nil { // they were killed for this
		return nil, ctx.Err()
	}
	return answers, first
}

// kill ends all workers at once.
func (t *team) kill() {
	for _, w := range t.workers {
		_ = w.cmd.Process.Kill() // it may have ended
	}
}

// dead tells how a worker ended that does not answer.
func (w *worker) dead(err error) error {
	_ = w.cmd.Process.Kill() // if it lives, it does not speak as a worker does
	if e := w.wait(); e != nil {
		err = e
	}
	said := ""
	if s := strings.TrimSpace(string(w.said)); s != "" {
		said = ", and said: " + s
	}
	return quarry.Errorf("bench", quarry.Internal, w.name, "it has ended (%w)%s", err, said)
}

// wait waits for a worker's end, once.
func (w *worker) wait() error {
	if w.end == nil {
		return nil
	}
	end := w.end
	w.end = nil
	return end()
}

// dismiss ends the workers. Those that do not end by themselves in time are killed.
func (t *team) dismiss() error {
	if t == nil {
		return nil
	}
	var errs []error
	for _, w := range t.workers {
		_ = w.in.Close() // it may have ended
	}
	late := t.clock.NewTimer(workerStopTime)
	defer late.Stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, w := range t.workers {
			if err := w.wait(); err != nil {
				errs = append(errs, err)
			}
		}
	}()
	select {
	case <-done:
	case <-late.C():
		t.kill()
		<-done
	}
	return errors.Join(errs...)
}
