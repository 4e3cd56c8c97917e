package sim

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/master"
)

// Host is a machine of the simulation, with at most one process.
type Host struct {
	w      *World
	net    *Network
	name   string
	number int
	true   *nodeClock    // the true time, for what the host is waited for by
	clock  *clock.Skewed // what its processes are told
	disk   *Disk
	log    *slog.Logger

	// heldUntil is until when the host's process stands still. Guarded by World.mu.
	heldUntil clock.Instant

	// run starts the process and returns when it can be used, or cannot.
	run func(ctx context.Context, p *process) (closer, error)

	mu      sync.Mutex
	state   *vfs.MemFS // of a master
	boots   int
	off     bool
	process *process
	wanted  bool           // a process that ends is started again
	work    sync.WaitGroup // processes that start, run or end
	crashes uint64
}

// closer is a process that runs.
type closer interface {
	// Close stops it as planned; Abort at once. Both return when nothing of it runs.
	Close() error
	Abort() error
	// Failed is closed when it has ended by itself; nil: it never does.
	Failed() <-chan struct{}
	Err() error
}

// process is one life of a host's process.
type process struct {
	host   *Host
	dead   atomic.Bool // it does nothing that anybody sees any more
	ended  chan struct{}
	ctx    context.Context // ends when it is to end
	cancel context.CancelFunc
	abort  atomic.Bool                   // as a crash, not as planned
	master atomic.Pointer[master.Master] // if it is one
	server atomic.Pointer[observedServer]
	watch  *observer     // of a master: set before its first step
	node   quarry.NodeID // of a master, when it is known; guarded by observer.mu
}

// gone reports whether the process has been killed or has ended.
func (p *process) gone() bool { return p.dead.Load() }

// newHost adds a host to the network.
func newHost(n *Network, name string, number int) *Host {
	r := n.w.chance("host", uint64(number))
	h := &Host{w: n.w, net: n, name: name, number: number, log: slog.New(slog.DiscardHandler)}
	h.true = newNodeClock(n.w, h)
	offset := time.Duration(r.Int64N(int64(time.Hour)))
	rate := 1 + (r.Float64()-0.5)/100 // within 0.5 %
	h.clock = clock.NewSkewed(h.true, offset, rate)
	h.disk = newDisk(h)
	n.mu.Lock()
	n.hosts[name] = h
	n.mu.Unlock()
	return h
}

// down reports whether the host has no power.
func (h *Host) down() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.off
}

// boot names the present boot.
func (h *Host) boot() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return fmt.Sprintf("%s-%d", h.name, h.boots)
}

// Start gives the host power and starts its process; one that ends by itself is started
// again, until Stop. It does not wait.
func (h *Host) Start() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.process != nil {
		return
	}
	if h.off {
		h.off = false
		h.boots++
	}
	h.wanted = true
	p := &process{host: h, ended: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	h.process = p
	h.work.Go(func() { h.live(p) })
}

// restartTime is how long a process that has ended by itself stays down.
const restartTime = time.Second

// live is the life of a process.
func (h *Host) live(p *process) {
	running, err := h.run(p.ctx, p)
	if err == nil {
		select {
		case <-running.Failed():
			h.log.Info("sim: the process has failed", "error", running.Err())
			p.abort.Store(true)
			h.bury(p)
			h.reimage(p)
		case <-p.ctx.Done():
		}
		if p.abort.Load() {
			err = running.Abort()
		} else {
			err = running.Close()
		}
	}
	if err != nil {
		h.log.Info("sim: the process has ended", "error", err)
	}
	h.bury(p)
	close(p.ended)
	h.mu.Lock()
	mine := h.process == p
	if mine {
		h.process = nil
	}
	again := mine && h.wanted
	h.mu.Unlock()
	if again {
		h.w.schedule(h.w.Now().Add(restartTime), mix("restart", uint64(h.number)), nil, func() {
			h.mu.Lock()
			again := h.wanted
			h.mu.Unlock()
			if again {
				h.Start()
			}
		})
	}
}

// reimage leaves the disks as the next process finds them when p has ended by itself.
func (h *Host) reimage(p *process) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.process != p {
		return
	}
	h.crashes++
	h.disk.kill()
	if h.state != nil {
		r := h.w.chance("crash", uint64(h.number), h.crashes)
		h.state = h.state.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: r})
	}
}

// bury takes what is left of a process out of the network.
func (h *Host) bury(p *process) {
	p.dead.Store(true)
	p.cancel()
	h.mu.Lock()
	told := !h.off
	h.mu.Unlock()
	for _, c := range h.net.ends(func(c *conn) bool { return c.process == p }) {
		c.vanish(told)
	}
	h.net.mu.Lock()
	var mine []*listener
	for _, l := range h.net.listeners {
		if l.p == p {
			mine = append(mine, l)
		}
	}
	h.net.mu.Unlock()
	for _, l := range mine {
		l.Close()
	}
}

// Stop stops the process as planned, and returns when it has ended.
func (h *Host) Stop() {
	h.mu.Lock()
	h.wanted = false
	p := h.process
	h.mu.Unlock()
	if p != nil {
		p.cancel()
		<-p.ended
	}
}

// Kill ends the process at this instant. What it has written is in the system's cache.
func (h *Host) Kill() { h.end(false) }

// PowerOff ends the process and everything that was not on the disk; some of what was not
// synced may be, too.
func (h *Host) PowerOff() { h.end(true) }

func (h *Host) end(power bool) {
	h.mu.Lock()
	h.wanted = false
	p := h.process
	h.process = nil
	h.crashes++
	r := h.w.chance("crash", uint64(h.number), h.crashes)
	h.off = h.off || power
	percent := 100
	if power {
		percent = r.IntN(101)
		h.disk.crash(r)
	} else {
		h.disk.kill()
	}
	if h.state != nil {
		h.state = h.state.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: r})
	}
	h.mu.Unlock()
	h.w.mu.Lock()
	h.heldUntil = 0
	h.w.mu.Unlock()
	if p != nil {
		p.abort.Store(true)
		h.bury(p)
	}
}

// Wipe gives the host, which has no process, empty disks.
func (h *Host) Wipe() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.disk.wipe()
	if h.state != nil {
		h.state = vfs.NewCrashableMem()
	}
}

// Hold makes the process stand still for d, as SIGSTOP does, and returns until when that is.
func (h *Host) Hold(d time.Duration) clock.Instant {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	h.heldUntil = h.w.base.Now().Add(d)
	return h.heldUntil
}
