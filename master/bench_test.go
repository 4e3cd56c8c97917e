package master

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/raft"
)

// alone is the transport of a node without others.
type alone struct{}

func (alone) Send(context.Context, raft.Member, []byte) error { return nil }

func (alone) SendSnapshot(context.Context, raft.Member, io.Reader) error { return io.ErrClosedPipe }

// walkHost is one node with a shard of files, of which each directory on the way has width
// entries.
func walkHost(b *testing.B, files int) *raft.Host {
	folder, err := disk.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	h, err := raft.Open(raft.Config{
		Node: 1, Cluster: quarry.ClusterID{1}, Address: "m:1", Log: folder, State: vfs.Default, StateDir: b.TempDir(),
		Transport: alone{}, Clock: clock.System(), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = h.Close() })
	if err := h.Bootstrap(1, []raft.Member{h.Self()}, &shardMachine{}); err != nil {
		b.Fatal(err)
	}
	sequence := quarry.Sequence(0)
	var session quarry.SessionID
	pending := make(chan error, 512)
	propose := func(body meta.Body) *meta.Result {
		sequence++
		c := meta.Command{Time: 1, WallNS: 1e18, Op: quarry.Op{Session: session, Sequence: sequence, Oldest: max(sequence, 501) - 500}, Body: body}
		command, err := c.Append(nil)
		if err != nil {
			b.Fatal(err)
		}
		for {
			out, err := h.Propose(b.Context(), 1, command)
			if quarry.KindOf(err) == quarry.NotLeader {
				_ = clock.System().Sleep(b.Context(), 10*time.Millisecond)
				continue
			}
			r, err := meta.DecodeResult(out)
			if err == nil {
				err = r.Err
			}
			if err != nil {
				b.Fatal(err)
			}
			return r
		}
	}
	propose(&meta.Init{Slots: []quarry.SlotRange{{Last: quarry.Slots - 1}}})
	session = propose(&meta.OpenSession{}).Session
	dir := quarry.RootInode
	for range 5 {
		dir = propose(&meta.Make{Parent: dir, Name: "directory", Kind: quarry.KindDir}).Attr.Inode
	}
	for i := range files {
		sequence++
		c := meta.Command{Time: 1, WallNS: 1e18, Op: quarry.Op{Session: session, Sequence: sequence, Oldest: max(sequence, 601) - 600}, Body: &meta.Make{Parent: dir, Name: fmt.Sprintf("file-%08d", i), Kind: quarry.KindFile}}
		command, _ := c.Append(nil)
		go func() {
			_, err := h.Propose(b.Context(), 1, command)
			pending <- err
		}()
		if i%256 == 255 || i == files-1 {
			for range i%256 + 1 {
				if err := <-pending; err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	return h
}

// threadTime reports the CPU time of the calling goroutine alone: what Pebble does beside it
// does not count, nor does what else the machine is busy with.
func threadTime(b *testing.B) func() {
	runtime.LockOSThread()
	used := func() time.Duration {
		var r syscall.Rusage
		_ = syscall.Getrusage(1, &r) // RUSAGE_THREAD
		return time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	began := used()
	return func() {
		b.ReportMetric(float64((used()-began).Nanoseconds())/float64(b.N), "cpu-ns/op")
		runtime.UnlockOSThread()
	}
}

// BenchmarkWalk walks a path of six parts, whose file is another one each time.
func BenchmarkWalk(b *testing.B) {
	for _, files := range []int{100, 10_000, 300_000} {
		h := walkHost(b, files)
		path := func(i int) string {
			return fmt.Sprintf("directory/directory/directory/directory/directory/file-%08d", i)
		}
		look := func(b *testing.B, v meta.View, i int) {
			if _, err := meta.Lookup(v, &quarry.LookupRequest{From: quarry.RootInode, Path: path(i)}, nil); err != nil {
				b.Fatal(err)
			}
		}
		b.Run(fmt.Sprintf("pebble/files=%d", files), func(b *testing.B) {
			defer threadTime(b)()
			for b.Loop() {
				_ = h.View(1, func(kv raft.Reader) error { look(b, kv, rand.IntN(files)); return nil })
			}
		})
		b.Run(fmt.Sprintf("view/files=%d", files), func(b *testing.B) {
			defer threadTime(b)()
			for b.Loop() {
				_ = h.View(1, func(kv raft.Reader) error { return nil })
			}
		})
		memory := meta.NewMemory()
		_ = h.View(1, func(kv raft.Reader) error {
			kv.Scan(nil, nil, func(k, v []byte) bool { memory.Set(k, v); return true })
			return nil
		})
		b.Run(fmt.Sprintf("memory/files=%d", files), func(b *testing.B) {
			defer threadTime(b)()
			for b.Loop() {
				look(b, memory, rand.IntN(files))
			}
		})
		b.Run(fmt.Sprintf("readindex/files=%d", files), func(b *testing.B) {
			for b.Loop() {
				_ = h.ReadIndex(b.Context(), 1)
			}
		})
	}
}
