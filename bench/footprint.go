package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quarryfs/quarry/chaos"
	"github.com/quarryfs/quarry/client"
)

const (
	// busyClients is how many clients of memory work, and fileOfBusy how large what they read is.
	busyClients = 100
	fileOfBusy  = 64 << 20
	// lookEvery is how often the memory of a process that works is looked at.
	lookEvery = 50 * time.Millisecond
)

// footprint measures what a client needs while it writes and reads one large file, and what a chunk
// server needs for connections on which nothing happens and for clients that read and append at
// the same time. There is one chunk server, so that all of them meet.
func (b *run) footprint(ctx context.Context) (out []Result, err error) {
	c, fs, end, err := b.withClient(ctx, "memory", 1, 1, 1)
	if err != nil {
		return nil, err
	}
	defer end()
	p := &gauge{b: b}
	if err := b.largeFile(ctx, fs, p); err != nil {
		return nil, err
	}
	if err := b.manyClients(ctx, c, fs, p); err != nil {
		return nil, err
	}
	return p.out, nil
}

// largeFile has this process put and read a file of the size that is asked for.
func (b *run) largeFile(ctx context.Context, fs *client.FS, p *gauge) error {
	own := func() (usage, error) { return usageAt(os.Getpid(), "this process") }
	if err := p.calm(ctx, "client/before", own); err != nil {
		return err
	}
	err := p.during(ctx, "client/put", own, func(ctx context.Context) error {
		_, err := fs.Put(ctx, "/large", newPattern(b.Bytes, 1), client.PutOptions{Size: b.Bytes})
		return err
	})
	if err != nil {
		return err
	}
	return p.during(ctx, "client/read", own, func(ctx context.Context) error {
		f, err := fs.Open(ctx, "/large")
		if err != nil {
			return err
		}
		defer f.Close()
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, make([]byte, 1<<20))
		if err == nil && n != b.Bytes {
			err = fmt.Errorf("%d bytes were read, %d were put", n, b.Bytes)
		}
		return err
	})
}

// manyClients has clients connect to the chunk server, and some of them work.
func (b *run) manyClients(ctx context.Context, c *chaos.Cluster, fs *client.FS, p *gauge) error {
	if _, err := fs.Put(ctx, "/busy", newPattern(fileOfBusy, 2), client.PutOptions{Size: fileOfBusy}); err != nil {
		return err
	}
	for k := range busyClients {
		if err := create(ctx, fs, fmt.Sprint("/log-", k)); err != nil {
			return err
		}
	}
	server := func() (usage, error) { return usageOf(c.Servers[0]) }
	if err := p.calm(ctx, "server/before", server); err != nil {
		return err
	}
	all, err := b.visitors(ctx, c)
	defer func() {
		for _, x := range all {
			if x != nil {
				_ = x.Close() // the cluster ends, too
			}
		}
	}()
	if err != nil {
		return err
	}
	if err := p.calm(ctx, fmt.Sprintf("server/%d-idle", len(all)), server); err != nil {
		return err
	}
	busy := all[:min(busyClients, len(all))]
	err = p.during(ctx, fmt.Sprintf("server/%d-busy", len(busy)), server, func(ctx context.Context) error {
		return each(ctx, len(busy), func(ctx context.Context, k int) error { return b.busyWork(ctx, busy[k], k) })
	})
	if err != nil {
		return err
	}
	return p.calm(ctx, "server/after", server)
}

// visitors opens clients that share no connection; each has read a little, so that it is connected
// to the chunk server.
func (b *run) visitors(ctx context.Context, c *chaos.Cluster) ([]*client.FS, error) {
	b.Progress(fmt.Sprintf("memory: %d clients are connecting", b.Connections))
	all := make([]*client.FS, b.Connections)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(connecting)
	for i := range all {
		g.Go(func() (err error) {
			if all[i], err = c.Client(ctx, fmt.Sprint("client-", i), client.Options{Log: b.Log, NetworkOnly: true}); err != nil {
				return err
			}
			f, err := all[i].Open(ctx, "/busy")
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.ReadAt(make([]byte, 1), int64(i))
			return err
		})
	}
	return all, g.Wait()
}

// busyWork has a client read a file again and again, and append records to a file of its own at
// the same time.
func (b *run) busyWork(ctx context.Context, fs *client.FS, k int) error {
	a, err := fs.Appender(ctx, fmt.Sprint("/log-", k))
	if err != nil {
		return err
	}
	defer a.Close()
	f, err := fs.Open(ctx, "/busy")
	if err != nil {
		return err
	}
	defer f.Close()
	var g errgroup.Group
	g.Go(func() error {
		record := make([]byte, 4<<10)
		return b.until(func(int) error {
			_, err := a.Append(ctx, record)
			return err
		})
	})
	buf := make([]byte, 1<<20)
	err = b.until(func(i int) error {
		_, err := f.ReadAt(buf, int64(i)*int64(len(buf))%fileOfBusy)
		return err
	})
	if other := g.Wait(); err == nil {
		err = other
	}
	return err
}

// gauge looks at the memory of processes.
type gauge struct {
	b   *run
	out []Result
}

// tell notes what was seen.
func (p *gauge) tell(what, unit string, values ...float64) {
	p.out = append(p.out, figure("memory/"+what, unit, values, nil))
}

// calm looks at a process after a while in which nothing was asked of it.
func (p *gauge) calm(ctx context.Context, what string, of func() (usage, error)) error {
	p.b.Progress("memory: " + what)
	if err := p.b.clock.Sleep(ctx, p.b.calm()); err != nil {
		return err
	}
	u, err := of()
	if err == nil {
		p.tell(what, "MiB", float64(u.rss)/(1<<20))
		p.tell(what+"/descriptors", "", float64(u.files))
	}
	return err
}

// during looks at a process again and again while something is done; the runs are the looks.
func (p *gauge) during(ctx context.Context, what string, of func() (usage, error), do func(context.Context) error) error {
	p.b.Progress("memory: " + what)
	var over atomic.Bool
	var seen []float64
	var g errgroup.Group
	g.Go(func() error {
		for {
			u, err := of()
			if err != nil {
				return err
			}
			seen = append(seen, float64(u.rss)/(1<<20))
			if over.Load() || p.b.clock.Sleep(ctx, lookEvery) != nil {
				return nil
			}
		}
	})
	err := do(ctx)
	over.Store(true)
	if other := g.Wait(); err == nil {
		err = other
	}
	if err == nil {
		p.tell(what, "MiB", seen...)
	}
	return err
}
