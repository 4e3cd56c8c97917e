package sim

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/sim/lives"
)

// mortal is a client process that can be killed and started again: workers go on with the one
// that runs, and never hear what became of what they asked of one before. Safe for use by many
// goroutines.
type mortal struct {
	lives.FileSystem
	c    *Cluster
	host *Host
	opts client.Options

	mu   sync.Mutex
	life *process // the last
}

// Client opens a client on a host of its own.
func (c *Cluster) Client(ctx context.Context, number int, opts client.Options) (*mortal, error) {
	m := &mortal{c: c, host: c.host(fmt.Sprintf("c%d", number), 300+number), opts: opts}
	return m, m.open(ctx)
}

// open starts a process.
func (m *mortal) open(ctx context.Context) error {
	h, opts := m.host, m.opts
	p := &process{host: h}
	opts.Clock, opts.Network, opts.Key, opts.Hosts, opts.Log = h.clock, m.c.net.of(h, p), m.c.key, []string{h.name}, h.log
	fs, err := client.Open(ctx, m.c.addresses(), opts)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.life = p
	m.Begin(fs)
	return nil
}

// kill ends the process at this instant, as far as anybody can see. What its workers wait for
// ends by their own timeouts.
func (m *mortal) kill() {
	m.mu.Lock()
	p := m.life
	m.mu.Unlock()
	p.dead.Store(true)
	for _, c := range m.c.net.ends(func(c *conn) bool { return c.process == p }) {
		c.vanish(true)
	}
}

// restart opens a process in the place of the one that was killed, as soon as masters answer.
func (m *mortal) restart() {
	for end := m.c.w.Now().Add(recoverTime); m.c.w.Now() < end; {
		ctx, cancel := m.c.admin.clock.WithTimeout(context.Background(), 5*time.Second)
		err := m.open(ctx)
		cancel()
		if err == nil {
			return
		}
		m.c.log.Printf("sim  %s does not start: %v", m.host.name, err)
	}
}
