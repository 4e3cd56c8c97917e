package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/clock"
)

const gib = 1 << 30

// Verbs are what Run can measure.
var Verbs = []string{"write", "read", "append", "meta", "clients", "limits", "failover"}

// Run measures one verb and returns its figures.
func Run(ctx context.Context, verb string, c Config) ([]Result, error) {
	c.withDefaults()
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, err
	}
	b := &run{Config: c, clock: clock.System()}
	switch verb {
	case "write":
		return b.write(ctx)
	case "read":
		return b.read(ctx)
	case "append":
		return b.appends(ctx)
	case "meta":
		return b.meta(ctx)
	case "clients":
		return b.clients(ctx)
	case "limits":
		return b.limits(ctx)
	case "failover":
		return b.failover(ctx)
	}
	return nil, fmt.Errorf("bench: %q cannot be measured, only %v", verb, Verbs)
}

// run is one measurement.
type run struct {
	Config
	clock clock.Clock
}

// pairs measures Quarry and a bare program in turn, after one of each that does not count.
func (b *run) pairs(ctx context.Context, what string, ours, bare func(ctx context.Context, i int) error) (us, them []sample, err error) {
	for i := -1; i < b.Runs; i++ {
		b.Progress(fmt.Sprintf("%s: run %d of %d", what, i+1, b.Runs))
		x, err := measure(ctx, b.clock, func(ctx context.Context) error { return ours(ctx, i) })
		if err != nil {
			return nil, nil, err
		}
		y, err := measure(ctx, b.clock, func(ctx context.Context) error { return bare(ctx, i) })
		if err != nil {
			return nil, nil, err
		}
		if i >= 0 {
			us, them = append(us, x), append(them, y)
		}
	}
	return us, them, nil
}

// rate and cost turn samples into amounts per second, and processor seconds per amount.
func rate(s []sample, amount float64) (out []float64) {
	for _, x := range s {
		out = append(out, amount/x.wall.Seconds())
	}
	return out
}

func cost(s []sample, amount float64) (out []float64) {
	for _, x := range s {
		out = append(out, x.cpu.Seconds()/amount)
	}
	return out
}

// streamed is the two figures of a stream: throughput and processor time.
func (b *run) streamed(verb string, us, them []sample) []Result {
	amount := float64(b.Bytes) * float64(b.Clients) / gib
	return []Result{
		figure(name(verb, b.Clients, "throughput"), "GiB/s", rate(us, amount), rate(them, amount)),
		figure(name(verb, b.Clients, "cpu"), "s/GiB", cost(us, amount), cost(them, amount)),
	}
}

// write measures replicated writes against three local copies.
func (b *run) write(ctx context.Context) ([]Result, error) {
	e, err := b.start(ctx, "write", false)
	if err != nil {
		return nil, err
	}
	defer e.close()
	bare := filepath.Join(b.Dir, "bare")
	defer os.RemoveAll(bare) // all at the end: removing files is no part of writing them
	ours := func(ctx context.Context, i int) error {
		return each(ctx, b.Clients, func(ctx context.Context, k int) error {
			_, err := e.fs.Put(ctx, fmt.Sprintf("/write-%d-%d", i, k), newPattern(b.Bytes, uint64(k)), client.PutOptions{Size: b.Bytes})
			return err
		})
	}
	us, them, err := b.pairs(ctx, "write", ours, func(ctx context.Context, i int) error {
		dir := filepath.Join(bare, fmt.Sprint(i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		return localCopies(ctx, dir, b.Clients, b.Bytes)
	})
	if err != nil {
		return nil, err
	}
	return b.streamed("write", us, them), nil
}

// read measures warm sequential reads against the framed copy of the same bytes, or, of local
// files, against pread.
func (b *run) read(ctx context.Context) ([]Result, error) {
	e, err := b.start(ctx, "read", false)
	if err != nil {
		return nil, err
	}
	defer e.close()
	b.Progress("read: writing what is to be read")
	if _, err := e.fs.Put(ctx, "/read", newPattern(b.Bytes, 1), client.PutOptions{Size: b.Bytes}); err != nil {
		return nil, err
	}
	bare := filepath.Join(b.Dir, "bare")
	defer os.Remove(bare)
	if err := writeFile(bare, newPattern(b.Bytes, 1)); err != nil {
		return nil, err
	}
	ours := func(ctx context.Context, _ int) error {
		return each(ctx, b.Clients, func(ctx context.Context, _ int) error { return readAll(ctx, e.fs, "/read") })
	}
	verb, least := "read", framedCopy
	if b.Local {
		verb, least = "read-local", localReads
	}
	us, them, err := b.pairs(ctx, verb, ours, func(ctx context.Context, _ int) error {
		return least(ctx, bare, b.Clients, b.Bytes)
	})
	if err != nil {
		return nil, err
	}
	return b.streamed(verb, us, them), nil
}

func readAll(ctx context.Context, fs *client.FS, path string) error {
	f, err := fs.Open(ctx, path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for {
		_, err := io.ReadFull(f, buf)
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return nil
		default:
			return err
		}
	}
}

func writeFile(name string, r io.Reader) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if _, err = io.Copy(f, r); err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

// appends measures durable records of many appenders to one file against the same cluster
// with a batch of one record.
func (b *run) appends(ctx context.Context) ([]Result, error) {
	e, err := b.start(ctx, "append", false)
	if err != nil {
		return nil, err
	}
	defer e.close()
	one, err := b.start(ctx, "append-one", true)
	if err != nil {
		return nil, err
	}
	defer one.close()
	few := max(b.Operations/10, b.Clients) // the bare side is slow, and its rate does not depend on how many there are
	us, them, err := b.pairs(ctx, "append",
		func(ctx context.Context, i int) error { return b.appendTo(ctx, e.fs, i, b.Operations) },
		func(ctx context.Context, i int) error { return b.appendTo(ctx, one.fs, i, few) })
	if err != nil {
		return nil, err
	}
	n := float64(b.Operations)
	return []Result{
		figure(name("append", b.Clients, "rate"), "records/s", rate(us, n), rate(them, float64(few))),
		figure(name("append", b.Clients, "cpu"), "s/record", cost(us, n), cost(them, float64(few))),
	}, nil
}

// appendTo appends n records to a new file, each client one after the other.
func (b *run) appendTo(ctx context.Context, fs *client.FS, i, n int) error {
	path := fmt.Sprintf("/append-%d", i)
	w, err := fs.Create(ctx, path)
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	record := make([]byte, b.RecordBytes)
	fillPattern(record, uint64(i)+2)
	var next atomic.Int64
	return each(ctx, b.Clients, func(ctx context.Context, _ int) error {
		a, err := fs.Appender(ctx, path)
		if err != nil {
			return err
		}
		defer a.Close()
		for next.Add(1) <= int64(n) {
			if _, err := a.Append(ctx, record); err != nil {
				return err
			}
		}
		return nil
	})
}
