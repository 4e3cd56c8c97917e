package cluster_test

import (
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/cluster"
	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/rpc"
)

// A process whose disk hangs is not waited for without an end, and nobody else gets its folder
// before it has ended.
func TestCloseWithADiskThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var hangs atomic.Bool
		heal := make(chan struct{})
		fsys := disk.NewFaulty(disk.NewMem(), func(op disk.Op) disk.Fault {
			if op.Kind == disk.OpSync && hangs.Load() {
				<-heal
			}
			return disk.Fault{}
		})
		network := rpc.NewMemory()
		opts := cluster.MasterOptions{
			Common: cluster.Common{
				Listen: "master:0", Key: []byte("a secret of sixteen bytes or more"), Logger: slog.New(slog.DiscardHandler),
				Clock: clock.Simulated(), Network: network, Folder: func(string) (disk.FS, error) { return fsys, nil },
			},
			Dir: "/", State: vfs.NewMem(),
		}
		p, err := cluster.StartMaster(opts)
		if err != nil {
			t.Fatal(err)
		}
		c := rpc.NewClient(rpc.ClientConfig{
			Network: network, Clock: clock.Simulated(), Key: opts.Key, Identity: func() rpc.Identity { return rpc.Identity{Role: rpc.RoleClient} },
		})
		defer c.Close()
		if _, err := cluster.Init(t.Context(), c, clock.Simulated(), []string{p.Address}, 1); err != nil {
			t.Fatal(err)
		}
		hangs.Store(true)
		go func() { _, _ = c.Master(p.Address).Session(t.Context(), &quarry.SessionRequest{Shard: 1}) }() // nobody answers that
		synctest.Wait()
		began := clock.Simulated().Now()
		if err := p.Close(); !errors.Is(err, quarry.Unavailable) || !strings.Contains(err.Error(), "a disk hangs") {
			t.Errorf("closed: %v", err)
		}
		if took := clock.Simulated().Now().Sub(began); took < 30*time.Second || took > 31*time.Second {
			t.Errorf("it took %v", took)
		}
		if lock, err := fsys.Lock("lock"); err == nil {
			lock.Close()
			t.Error("its folder is free before it has ended")
		}
		hangs.Store(false)
		close(heal)
		synctest.Wait()
		if p, err = cluster.StartMaster(opts); err != nil {
			t.Fatalf("when it has ended: %v", err)
		}
		began = clock.Simulated().Now()
		if err := p.Close(); err != nil || clock.Simulated().Now().Sub(began) > time.Second {
			t.Errorf("closed: %v after %v", err, clock.Simulated().Now().Sub(began))
		}
	})
}
