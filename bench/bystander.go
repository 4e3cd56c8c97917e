package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/quarryfs/quarry/client"
)

const (
	// bystanderLeast and bystanderMost are how much a bystander reads at a time.
	bystanderLeast = 4 << 10
	bystanderMost  = 64 << 10
	// silenceLook is how often the masters are asked when they have heard of the chunk servers.
	silenceLook = 200 * time.Millisecond
)

// kindOf is what operations of a stage are counted as.
func kindOf(what string, stage int) string { return stageNames[stage] + "/" + what }

// lostLog is the file that client k appends to.
func lostLog(k int) string { return fmt.Sprintf("/lost-%d/log", k) }

// glance is a client that reads a little at random places of its file, one read after the other, until ctx
// ends or a read fails.
func (l *losing) glance(ctx context.Context, fs *client.FS, k int) error {
	f, err := fs.Open(ctx, lostFile(k))
	if err != nil {
		return err
	}
	defer f.Close()
	r := rand.New(rand.NewPCG(uint64(k), 1))
	buf := make([]byte, min(bystanderMost, l.Bytes))
	for {
		n := min(bystanderLeast+r.Int64N(bystanderMost-bystanderLeast), int64(len(buf)))
		at := r.Int64N(l.Bytes - n + 1)
		err := l.x.done.time(kindOf("small-reads", int(l.stage.Load())), n, func() error {
			_, err := f.ReadAtContext(ctx, buf[:n], at)
			return err
		})
		if err != nil {
			return err
		}
	}
}

// note is a client that appends records to a file of its own, one after the other, until ctx ends or an
// append fails.
func (l *losing) note(ctx context.Context, fs *client.FS, k int) error {
	a, err := fs.Appender(ctx, lostLog(k))
	if err != nil {
		return err
	}
	defer a.Close()
	record := make([]byte, l.RecordBytes[0])
	fillPattern(record, uint64(k)+3)
	for {
		err := l.x.done.time(kindOf("appends", int(l.stage.Load())), int64(len(record)), func() error {
			_, err := a.Append(ctx, record)
			return err
		})
		if err != nil {
			return err
		}
	}
}

// listen notes the longest silence of a chunk server that lives, as the masters tell it, until ctx ends.
// A lease is over after 2 s.
func (l *losing) listen(ctx context.Context) error {
	for l.clock.Sleep(ctx, silenceLook) == nil {
		st, err := l.c.Status(ctx)
		if err != nil {
			continue // a leader is busy; it is asked again
		}
		stage := l.stage.Load()
		for _, s := range st.Servers {
			if p := l.c.At(s.Address); p != nil && p != l.victim {
				l.x.silence[stage] = max(l.x.silence[stage], time.Duration(s.SilentMS)*time.Millisecond)
			}
		}
	}
	return ctx.Err()
}

// bystanders starts what clients do beside the loss, each until ctx ends: small operations from the
// beginning, and bulk reads from the second stage on.
func (l *losing) bystanders(ctx context.Context, fs *client.FS, start func(what string, do func(context.Context) error)) error {
	for k := range l.callers() {
		if err := create(ctx, fs, lostLog(k)); err != nil {
			return err
		}
	}
	for k := range l.callers() {
		start("a client that reads", func(ctx context.Context) error {
			select {
			case <-l.crowded:
			case <-ctx.Done():
				return ctx.Err()
			}
			return l.read(ctx, fs, k)
		})
		start("a client that reads a little", func(ctx context.Context) error { return l.glance(ctx, fs, k) })
		start("a client that appends", func(ctx context.Context) error { return l.note(ctx, fs, k) })
	}
	start("looking at the chunk servers", l.listen)
	return nil
}
