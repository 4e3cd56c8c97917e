package cluster

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/chunk"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/rpc"
	"github.com/quarryfs/quarry/rpc/secure"
)

// Release is the release of this software, shown to people.
const Release = "0.1.0-dev"

const (
	// stopTime is how long a stopping process may take to hand its work over.
	stopTime = 5 * time.Second
	// closeTime is how long it may take in all: a disk that hangs holds it up for ever.
	closeTime = 30 * time.Second
)

// Common is what all processes are told.
type Common struct {
	// Listen is the address on which the process is reached, host:port. With port 0 it is any
	// free one.
	Listen string
	// Advertise is the address that others are told; default: Listen.
	Advertise string
	// Key is the cluster's secret, at least 16 bytes; without one, Listen must be a loopback
	// address.
	Key []byte
	// Logger takes what an operator may want to know. Default: slog.Default().
	Logger *slog.Logger
	// Clock is the time. Default: the machine's.
	Clock clock.Clock
	// Network is how processes reach each other. Default: TCP, with connections that come from
	// the address that is listened at.
	Network rpc.Network
	// TLS puts the connections of Network under TLS. Default: they are not.
	TLS secure.Files
	// Folder opens a folder of this process's host. Default: disk.Open.
	Folder func(dir string) (disk.FS, error)
	// Boot names the present boot of this process's host. Default: that of this machine.
	Boot string
}

func (c *Common) withDefaults() error {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Clock == nil {
		c.Clock = clock.System()
	}
	if c.Network == nil {
		host, _, _ := net.SplitHostPort(c.Listen) // a wrong address is refused by Listen
		c.Network = rpc.TCPFrom(host)
	}
	if !c.TLS.IsZero() {
		secured, err := secure.Network(c.Network, c.TLS)
		if err != nil {
			return err
		}
		c.Network, c.TLS = secured, secure.Files{}
	}
	if c.Folder == nil {
		c.Folder = func(dir string) (disk.FS, error) { return disk.Open(dir) }
	}
	if c.Boot == "" {
		c.Boot = bootID()
	}
	if len(c.Key) == 0 && !loopback(c.Listen) {
		return quarry.Errorf("listen", quarry.Invalid, c.Listen,
			"without a cluster key only loopback addresses are served; give every process the same --key-file, made with: head -c 32 /dev/urandom | base64 > cluster.key")
	}
	return nil
}

// loopback reports whether an address can be reached from this machine only.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// ReadKey reads a cluster key from a file that only its owner may read.
func ReadKey(name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, quarry.Errorf("cluster key", quarry.Invalid, name, "it cannot be read: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, quarry.Errorf("cluster key", quarry.Permission, name, "others can read it: chmod 600 %s", name)
	}
	key, err := os.ReadFile(name)
	if err != nil {
		return nil, quarry.Errorf("cluster key", quarry.Invalid, name, "it cannot be read: %w", err)
	}
	for len(key) > 0 && (key[len(key)-1] == '\n' || key[len(key)-1] == '\r') {
		key = key[:len(key)-1]
	}
	if len(key) < 16 || len(key) > 4096 {
		return nil, quarry.Errorf("cluster key", quarry.Invalid, name, "a key has 16 to 4096 bytes, this one has %d", len(key))
	}
	return key, nil
}

// identity is what a process says of itself; it changes as the process learns it.
type identity struct {
	mu sync.Mutex
	id rpc.Identity
}

func (i *identity) get() rpc.Identity {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.id
}

func (i *identity) set(f func(*rpc.Identity)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	f(&i.id)
}

// Process is a running master or chunk server.
type Process struct {
	// Address is where the process is reached.
	Address string

	clock  clock.Clock
	server *rpc.Server
	serve  sync.WaitGroup
	fail   chan struct{} // closed when the process has failed by itself
	stop   chan struct{} // closed when the process is being closed
	err    func() error  // why
	close  func(context.Context) error
	stores []*chunk.Store // of a chunk server
	once   sync.Once
	closed error
}

// Failed is closed when the process has stopped by itself, because its disk fails or others
// refuse it; Err says why. It must still be closed.
func (p *Process) Failed() <-chan struct{} { return p.fail }

// Stopped is closed when the process is being closed.
func (p *Process) Stopped() <-chan struct{} { return p.stop }

// Err returns why the process has failed.
func (p *Process) Err() error { return p.err() }

// Close stops the process: first it hands over what others wait for, then it ends its
// connections. What was acknowledged is durable already. If it has not ended after 30 s, because
// a disk hangs, Close returns Unavailable; the folder stays locked until it has ended after all.
func (p *Process) Close() error {
	p.once.Do(func() {
		close(p.stop)
		ended := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), stopTime)
			defer cancel()
			err := p.close(ctx)
			err = errors.Join(err, p.server.Close())
			p.serve.Wait()
			ended <- err
		}()
		timer := p.clock.NewTimer(closeTime)
		defer timer.Stop()
		select {
		case p.closed = <-ended:
		case <-timer.C():
			p.closed = quarry.Errorf("stop", quarry.Unavailable, p.Address,
				"it has not ended within %v, most likely because a disk hangs; its folder stays locked until it has, or the system has ended it", closeTime)
		}
	})
	return p.closed
}

// Abort ends the process without waiting for anybody: nobody is given the time to take its
// work over. It returns when nothing of the process runs any more.
func (p *Process) Abort() error {
	p.once.Do(func() {
		close(p.stop)
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		err := p.server.Close()
		p.closed = errors.Join(err, p.close(ended))
		p.serve.Wait()
	})
	return p.closed
}

// lockFolder takes the folder for this process.
func lockFolder(fsys disk.FS, dir string) (io.Closer, error) {
	lock, err := fsys.Lock("lock")
	if err != nil {
		return nil, quarry.Errorf("folder", quarry.Busy, dir, "another process uses it, or one that is still stopping: %w", err)
	}
	return lock, nil
}

// listen opens the address, so that a port that is taken is told before anything is made.
func listen(c *Common) (rpc.Listener, string, error) {
	l, err := c.Network.Listen(c.Listen)
	if err != nil {
		return nil, "", quarry.Errorf("listen", quarry.Unavailable, c.Listen, "%w; is another process running there?", err)
	}
	address := c.Advertise
	if address == "" {
		address = l.Address()
	}
	return l, address, nil
}

// run serves an opened address.
func (p *Process) run(l rpc.Listener) {
	p.serve.Go(func() { _ = p.server.Serve(l) }) // it ends with the server
}

// bootID names the present boot of this host.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "" // no process is then proven to be gone by its successor: leases are waited out
	}
	return strings.TrimSpace(string(b))
}
