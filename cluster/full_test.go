package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/cluster"
)

// TestDisksSharedByShards has the leaders of four shards place chunks at the same time on disks
// that have room for few of them. Each leader may believe that there is room; the servers refuse
// what is too much, and what they take is whole. Each may have taken the replicas of other chunks, so that
// few have all of theirs; who asks again has the room of those that were given up.
func TestDisksSharedByShards(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	const quota = 640 << 20 // a quarter is reserved: room for 7 chunks
	d, err := cluster.StartDev(ctx, cluster.DevOptions{
		Common: cluster.Common{Listen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler)}, Dir: t.TempDir(), Servers: 3, Quota: quota,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	f, err := client.Open(ctx, d.Masters, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const each = 5
	var paths []string
	for i, slots := range []quarry.Slot{0, 1024, 2048, 3072} {
		if err := f.MkdirIn(ctx, fmt.Sprintf("/d%d", i), slots); err != nil {
			t.Fatal(err)
		}
		for k := range each {
			path := fmt.Sprintf("/d%d/log%d", i, k)
			w, err := f.Create(ctx, path)
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			paths = append(paths, path)
		}
	}
	errs := make([]error, len(paths))
	var wg sync.WaitGroup
	for i, path := range paths {
		wg.Go(func() { _, errs[i] = f.Append(ctx, path, []byte(path)) })
	}
	wg.Wait()
	taken := func() (n int) {
		for _, err := range errs {
			if err == nil {
				n++
			}
		}
		return n
	}
	for i := 0; taken() < 4 && ctx.Err() == nil; i = (i + 1) % len(paths) {
		if errors.Is(errs[i], quarry.NoSpace) {
			_, errs[i] = f.Append(ctx, paths[i], []byte(paths[i]))
		}
	}
	for i, path := range paths {
		switch {
		case errs[i] == nil:
			if got := readBack(ctx, t, f, path); string(got) != path {
				t.Errorf("%s reads %q", path, got)
			}
		case !errors.Is(errs[i], quarry.NoSpace):
			t.Errorf("%s: %v", path, errs[i])
		}
	}
	masters := operator(t, d)
	replicas := 0
	for _, path := range paths {
		info, err := f.Stat(ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		st, err := masters.Stat(ctx, &quarry.StatRequest{Inode: info.Attr.Inode})
		if err != nil {
			t.Fatal(err)
		}
		if st.Tail != nil {
			replicas += len(st.Tail.Members)
		}
	}
	t.Logf("%d of %d chunks had room, with %d replicas", taken(), len(paths), replicas)
	if taken() < 4 || replicas > 3*7 {
		t.Errorf("%d chunks were made with %d replicas: there is room for 7 replicas at each of 3 servers", taken(), replicas)
	}
}
