// Package clustertest gives a test a whole Quarry cluster in its own process: masters, shards and
// chunk servers, the same code as anywhere else, in well under a second. The cluster ends with the
// test.
//
//	func TestMine(t *testing.T) {
//		files := clustertest.Start(t)
//		_, err := files.Put(t.Context(), "/a/b", r, client.PutOptions{})
//		...
//	}
//
// Its parts talk over loopback sockets, so that a program under test can reach it at the addresses
// of its masters, too.
//
// This is the one place where nothing is synced to disk: a cluster of this package bears every
// failure but that of the machine, which takes the test with it. Data are in files of the test's
// temporary folder, the masters' state is in memory.
package clustertest

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/cluster"
	"github.com/quarryfs/quarry/disk"
)

// startMax is how long a cluster may take to start, on however busy a machine.
const startMax = 2 * time.Minute

// Cluster is a running cluster, and a client of it, which is closed with it.
type Cluster struct {
	*client.FS
	// Masters are where the cluster is reached, by client.Open or the command line's --masters.
	Masters []string
}

// Start starts a cluster of three masters with [cluster.DefaultShards] shards and three chunk
// servers, and ends it when the test and its subtests are over. It fails the test if the cluster
// does not start, and if a part of it has failed by itself.
func Start(t testing.TB) *Cluster {
	t.Helper()
	return StartWith(t, cluster.DevOptions{})
}

// StartWith is Start with the settings of [cluster.StartDev]; those that are not set are Start's.
// Folder and State cannot be set.
func StartWith(t testing.TB, opts cluster.DevOptions) *Cluster {
	t.Helper()
	if opts.Listen == "" {
		opts.Listen = "127.0.0.1:0"
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	if opts.Servers == 0 {
		opts.Servers = 3
	}
	opts.Folder, opts.State = unsynced, vfs.NewMem()
	ctx, cancel := context.WithTimeout(context.Background(), startMax)
	defer cancel()
	dev, err := cluster.StartDev(ctx, opts)
	if err != nil {
		t.Fatalf("the cluster did not start: %v", err)
	}
	failed := dev.Failed()
	t.Cleanup(func() {
		select {
		case err := <-failed:
			t.Errorf("a part of the cluster has failed by itself: %v", err)
		default:
		}
		_ = dev.Abort() // of what is not finished nobody will know
	})
	files, err := client.Open(ctx, dev.Masters, client.Options{Key: opts.Key, Network: opts.Network, Clock: opts.Clock})
	if err != nil {
		t.Fatalf("the cluster cannot be reached: %v", err)
	}
	t.Cleanup(func() { _ = files.Close() })
	return &Cluster{FS: files, Masters: dev.Masters}
}

// unsynced opens a folder whose syncs do nothing.
func unsynced(dir string) (disk.FS, error) {
	fsys, err := disk.Open(dir)
	if err != nil {
		return nil, err
	}
	return disk.NewFaulty(fsys, func(op disk.Op) disk.Fault {
		return disk.Fault{Skip: op.Kind == disk.OpSync || op.Kind == disk.OpSyncDir}
	}), nil
}
