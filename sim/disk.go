package sim

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/quarryfs/quarry/disk"
)

// DiskFaults are what a host's disk does to the operations of its process. The zero
// DiskFaults are a disk that takes no time and does not fail.
type DiskFaults struct {
	// SyncMin and SyncMax are how long a sync takes.
	SyncMin, SyncMax time.Duration
	// ReadMax is how long a read takes at most; most take none.
	ReadMax time.Duration
	// FailSync and FailWrite are the chances that an operation fails with EIO.
	FailSync, FailWrite float64
	// Full: files of chunks cannot grow. What else a server needs has a reserve.
	Full bool
	// Hangs: no write and no sync comes back until that is over.
	Hangs bool
}

// healthyDisk is a disk without faults.
var healthyDisk = DiskFaults{SyncMin: 100 * time.Microsecond, SyncMax: 2 * time.Millisecond}

// Disk is a host's disk: files that survive what they should.
type Disk struct {
	host *Host

	mu      sync.Mutex
	mem     *disk.Mem
	emptied int // how often the disk was replaced by an empty one
	faults  DiskFaults
}

func newDisk(h *Host) *Disk { return &Disk{host: h, mem: disk.NewMem()} }

// Set changes the faults.
func (d *Disk) Set(f DiskFaults) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults = f
}

// Faults returns the faults.
func (d *Disk) Faults() DiskFaults {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.faults
}

// open returns the disk for a process; when the process is gone nothing it does reaches the
// disk any more.
func (d *Disk) open(p *process) (disk.FS, error) {
	return disk.NewFaulty(d.files(), func(op disk.Op) disk.Fault { return d.fault(p, op) }), nil
}

// fault decides on one operation. What is decided depends on the seed, on the host, on what
// is done to which file, and on when.
func (d *Disk) fault(p *process, op disk.Op) disk.Fault {
	if p.gone() {
		return disk.Fault{Err: syscall.EIO}
	}
	f := d.Faults()
	if f.Full && strings.HasPrefix(op.Name, "chunks/") && (op.Kind == disk.OpWrite || op.Kind == disk.OpAllocate || op.Kind == disk.OpCreate) {
		return disk.Fault{Err: syscall.ENOSPC}
	}
	switch op.Kind {
	case disk.OpSync, disk.OpRead, disk.OpWrite:
	default:
		return disk.Fault{}
	}
	for f.Hangs && op.Kind != disk.OpRead && !p.gone() {
		_ = d.host.true.Sleep(context.Background(), 20*time.Millisecond)
		f = d.Faults()
	}
	w := d.host.w
	r := w.chance(op.Name, uint64(d.host.number), uint64(op.Kind), uint64(op.Off), uint64(op.N), uint64(w.Now()))
	var chance float64
	var wait time.Duration
	switch op.Kind {
	case disk.OpSync:
		chance = f.FailSync
		wait = f.SyncMin + jitter(r.Float64(), f.SyncMax-f.SyncMin)
	case disk.OpRead:
		if x := r.Float64(); x > 0.9 {
			wait = jitter((x-0.9)*10, f.ReadMax)
		}
	case disk.OpWrite:
		chance = f.FailWrite
	}
	if wait > 0 {
		_ = d.host.true.Sleep(context.Background(), wait) // such a context does not end
	}
	if p.gone() || r.Float64() < chance {
		return disk.Fault{Err: syscall.EIO}
	}
	return disk.Fault{}
}

// kill leaves the disk as the next process finds it when this one is killed.
func (d *Disk) kill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mem = d.mem.Clone()
}

// crash leaves the disk as it is after a loss of power.
func (d *Disk) crash(r *rand.Rand) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mem = d.mem.Crash(r)
}

// files returns what is on the disk.
func (d *Disk) files() *disk.Mem {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mem
}

// wipe leaves an empty disk.
func (d *Disk) wipe() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mem = disk.NewMem()
	d.emptied++
}

// replaced returns how often the disk was replaced by an empty one.
func (d *Disk) replaced() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.emptied
}
