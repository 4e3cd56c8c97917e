package cluster_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/cluster"
	"github.com/quarryfs/quarry/rpc"
)

// dev starts a cluster on loopback sockets and a client of it.
func dev(t *testing.T, servers int) (*cluster.Dev, *client.FS, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	d, err := cluster.StartDev(ctx, cluster.DevOptions{
		Common: cluster.Common{Listen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler)}, Dir: t.TempDir(), Servers: servers,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	f, err := client.Open(ctx, d.Masters, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return d, f, ctx
}

// randomBytes returns bytes that depend on the seed only.
func randomBytes(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	r.Read(b)
	return b
}

func readBack(ctx context.Context, t *testing.T, f *client.FS, path string) []byte {
	t.Helper()
	file, err := f.Open(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	b, err := io.ReadAll(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFilesOfEverySize(t *testing.T) {
	t.Parallel()
	_, f, ctx := dev(t, 3)
	for i, n := range []int{0, 1, 100, quarry.InlineBytesMax, quarry.InlineBytesMax + 1, quarry.BlockBytes, quarry.PacketBytes + 1, 3<<20 + 17, quarry.ChunkBytesMax + 12345} {
		data := randomBytes(n, uint64(i))
		path := fmt.Sprintf("/put-%d", n)
		if _, err := f.Put(ctx, path, bytes.NewReader(data), client.PutOptions{Size: int64(n)}); err != nil {
			t.Fatalf("put of %d bytes: %v", n, err)
		}
		if sha256.Sum256(readBack(ctx, t, f, path)) != sha256.Sum256(data) {
			t.Errorf("put of %d bytes reads back differently", n)
		}
		w, err := f.Create(ctx, fmt.Sprintf("/create-%d", n))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatalf("create of %d bytes: %v", n, err)
		}
		if sha256.Sum256(readBack(ctx, t, f, fmt.Sprintf("/create-%d", n))) != sha256.Sum256(data) {
			t.Errorf("create of %d bytes reads back differently", n)
		}
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	_, f, ctx := dev(t, 3)
	check := func(err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	check(f.Mkdir(ctx, "/a"), nil)
	check(f.Mkdir(ctx, "/a"), fs.ErrExist)
	check(f.Mkdir(ctx, "/x/y"), fs.ErrNotExist)
	check(f.MkdirAll(ctx, "/x/y/z"), nil)
	_, err := f.Put(ctx, "/a/one", bytes.NewReader([]byte("1")), client.PutOptions{})
	check(err, nil)
	check(f.Mkdir(ctx, "/a/one/two"), quarry.NotDir)
	check(f.Remove(ctx, "/a"), quarry.NotEmpty)
	check(f.Rename(ctx, "/a", "/a/b"), quarry.Invalid)
	check(f.Rename(ctx, "/a", "/x/y/a"), nil)
	if got := readBack(ctx, t, f, "/x/y/a/one"); string(got) != "1" {
		t.Errorf("after the rename it reads %q", got)
	}
	_, err = f.Stat(ctx, "/a")
	check(err, fs.ErrNotExist)
	_, err = f.Append(ctx, "/nowhere", []byte("x"))
	check(err, fs.ErrNotExist)
	check(f.Remove(ctx, "/x/y/a/one"), nil)
	check(f.Remove(ctx, "/x/y/a"), nil)
	_, err = f.Put(ctx, "/x", bytes.NewReader(nil), client.PutOptions{})
	check(err, quarry.IsDir)
}

// TestPlacedDirectory makes directories in slots of the caller's choice.
func TestPlacedDirectory(t *testing.T) {
	t.Parallel()
	d, f, ctx := dev(t, 3)
	for _, slot := range []quarry.Slot{0, 7, quarry.Slots/cluster.DefaultShards - 1, quarry.Slots / cluster.DefaultShards, 3000, quarry.Slots - 1} {
		path := fmt.Sprintf("/in-%d", slot)
		if err := f.MkdirIn(ctx, path, slot); err != nil {
			t.Fatal(err)
		}
		if info, err := f.Stat(ctx, path); err != nil || info.Attr.Inode.Slot() != slot {
			t.Errorf("slot %d: %+v, %v", slot, info, err)
		}
		if _, err := f.Put(ctx, path+"/file", bytes.NewReader(randomBytes(100000, 1)), client.PutOptions{}); err != nil {
			t.Error(err)
		}
		if info, err := f.Stat(ctx, path+"/file"); err != nil || info.Attr.Inode.Slot() != slot {
			t.Errorf("a file in slot %d: %+v, %v", slot, info, err)
		}
		if got := readBack(ctx, t, f, path+"/file"); !bytes.Equal(got, randomBytes(100000, 1)) {
			t.Errorf("the file in slot %d reads back differently", slot)
		}
		w, err := f.Create(ctx, path+"/log")
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			if at, err := f.Append(ctx, path+"/log", []byte("record")); err != nil || at != int64(6*i) {
				t.Errorf("slot %d: record %d at %d, %v", slot, i, at, err)
			}
		}
	}
	if err := f.MkdirIn(ctx, "/beyond", quarry.Slots); !errors.Is(err, quarry.Invalid) {
		t.Errorf("slot beyond the last: %v", err)
	}
	c := rpc.NewClient(rpc.ClientConfig{
		Network: rpc.TCP, Clock: clock.System(), Identity: func() rpc.Identity { return rpc.Identity{Role: rpc.RoleClient} },
	})
	defer c.Close()
	topology, err := c.Master(d.Masters[0]).Topology(ctx)
	if err != nil || len(topology.Shards) != 1+cluster.DefaultShards {
		t.Errorf("%+v, %v", topology, err)
	}
}

// TestNamesAcrossShards changes names between directories that different shards keep.
func TestNamesAcrossShards(t *testing.T) {
	t.Parallel()
	_, f, ctx := dev(t, 3)
	check := func(what string, err error, kind quarry.Kind) {
		t.Helper()
		if quarry.KindOf(err) != kind {
			t.Fatalf("%s: %v, want kind %d", what, err, kind)
		}
	}
	is := func(path, content string) {
		t.Helper()
		file, err := f.Open(ctx, path)
		check("open "+path, err, 0)
		defer file.Close()
		got := make([]byte, len(content)+1)
		if n, err := file.ReadAt(got, 0); string(got[:n]) != content || err != io.EOF {
			t.Fatalf("%s has %q, %v", path, got[:n], err)
		}
	}
	const step = quarry.Slots / cluster.DefaultShards
	for i := range quarry.Slot(cluster.DefaultShards) {
		check("mkdir", f.MkdirIn(ctx, fmt.Sprintf("/%d", i), i*step+1), 0)
	}
	check("mkdir there", f.MkdirIn(ctx, "/3/sub", 2*step), 0)
	check("mkdir again", f.MkdirIn(ctx, "/3/sub", step), quarry.Exists)
	check("mkdir all", f.MkdirAll(ctx, "/3/sub/a/b"), 0)
	put := func(path, content string) {
		t.Helper()
		_, err := f.Put(ctx, path, strings.NewReader(content), client.PutOptions{})
		check("put "+path, err, 0)
	}
	long := strings.Repeat("chunk", 20000)
	put("/1/f", long)
	put("/2/f", "inline")
	check("mv a file", f.Rename(ctx, "/1/f", "/3/sub/a/f"), 0)
	is("/3/sub/a/f", long)
	check("mv over it", f.Rename(ctx, "/2/f", "/3/sub/a/f"), 0)
	is("/3/sub/a/f", "inline")
	put("/3/sub/a/f", "put over what came from elsewhere")
	is("/3/sub/a/f", "put over what came from elsewhere")
	check("mv a directory", f.Rename(ctx, "/3/sub", "/1/sub"), 0)
	is("/1/sub/a/f", "put over what came from elsewhere")
	check("mv a directory into itself", f.Rename(ctx, "/1", "/1/sub/a/b/1"), quarry.Invalid)
	infos, _, err := f.List(ctx, "/", "", 10)
	check("list", err, 0)
	for _, info := range infos {
		if info.Attr.Elsewhere || info.Attr.Mode == 0 {
			t.Errorf("%+v", info)
		}
	}
	check("rm what is not empty", f.Remove(ctx, "/1"), quarry.NotEmpty)
	for i := range 30 {
		put(fmt.Sprintf("/1/sub/a/b/%d", i), "x")
	}
	check("mv one away", f.Rename(ctx, "/1/sub/a/b/7", "/0/7"), 0)
	stopped, cancel := context.WithCancel(ctx)
	cancel()
	check("rm all, cancelled", f.RemoveAll(stopped, "/1"), quarry.Unavailable)
	check("rm all", f.RemoveAll(ctx, "/1"), 0)
	check("rm all again", f.RemoveAll(ctx, "/1"), 0)
	_, err = f.Stat(ctx, "/1")
	check("stat", err, quarry.NotFound)
	is("/0/7", "x")
	for i := range cluster.DefaultShards {
		check("rm", f.RemoveAll(ctx, fmt.Sprintf("/%d", i)), 0)
	}
	infos, _, err = f.List(ctx, "/", "", 10)
	if check("list", err, 0); len(infos) != 0 {
		t.Errorf("left over: %v", infos)
	}
}

// TestAppendersOfOneFile has many appenders, from two clients, append to one file.
func TestAppendersOfOneFile(t *testing.T) {
	t.Parallel()
	d, f, ctx := dev(t, 4)
	g, err := client.Open(ctx, d.Masters, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	w, err := f.Create(ctx, "/log")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	const appenders, each = 16, 100
	type place struct {
		offset int64
		record []byte
	}
	var mu sync.Mutex
	var places []place
	var wg sync.WaitGroup
	for i := range appenders {
		fs := f
		if i%2 == 1 {
			fs = g
		}
		wg.Go(func() {
			for k := range each {
				record := []byte(fmt.Sprintf("<appender %d record %d %s>", i, k, randomBytes(i*k%700, uint64(i*each+k))))
				offset, err := fs.Append(ctx, "/log", record)
				if err != nil {
					t.Errorf("append: %v", err)
					return
				}
				mu.Lock()
				places = append(places, place{offset, record})
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	all := readBack(ctx, t, f, "/log")
	total := 0
	for _, p := range places {
		total += len(p.record)
		if end := p.offset + int64(len(p.record)); end > int64(len(all)) || !bytes.Equal(all[p.offset:end], p.record) {
			t.Errorf("the record at %d is not there", p.offset)
		}
	}
	if len(places) != appenders*each || total != len(all) {
		t.Errorf("%d records of %d bytes were acknowledged, the file has %d bytes", len(places), total, len(all))
	}
}

func TestWithoutAKeyOnlyLoopbackIsServed(t *testing.T) {
	t.Parallel()
	_, err := cluster.StartMaster(cluster.MasterOptions{Common: cluster.Common{Listen: "0.0.0.0:0"}, Dir: t.TempDir()})
	if !errors.Is(err, quarry.Invalid) {
		t.Errorf("got %v", err)
	}
}

// TestKeys has a cluster with a key refuse those who do not know it.
func TestKeys(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	key := []byte("a secret of sixteen bytes or more")
	d, err := cluster.StartDev(ctx, cluster.DevOptions{
		Common: cluster.Common{Listen: "127.0.0.1:0", Key: key, Logger: slog.New(slog.DiscardHandler)}, Dir: t.TempDir(), Masters: 1, Servers: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, wrong := range [][]byte{nil, []byte("another secret of enough bytes")} {
		if _, err := client.Open(ctx, d.Masters, client.Options{Key: wrong}); !errors.Is(err, quarry.Permission) {
			t.Errorf("with key %q: %v", wrong, err)
		}
	}
	f, err := client.Open(ctx, d.Masters, client.Options{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Put(ctx, "/x", bytes.NewReader(randomBytes(100000, 1)), client.PutOptions{}); err != nil {
		t.Error(err)
	}
}

// TestInitAgain makes a cluster twice: the second time changes nothing, and another order of
// the masters is refused.
func TestInitAgain(t *testing.T) {
	t.Parallel()
	d, f, ctx := dev(t, 3)
	if err := f.Mkdir(ctx, "/there"); err != nil {
		t.Fatal(err)
	}
	c := rpc.NewClient(rpc.ClientConfig{
		Network: rpc.TCP, Clock: clock.System(), Identity: func() rpc.Identity { return rpc.Identity{Role: rpc.RoleClient} },
	})
	defer c.Close()
	if _, err := cluster.Init(ctx, c, clock.System(), d.Masters, cluster.DefaultShards); err != nil {
		t.Error(err)
	}
	if _, err := cluster.Init(ctx, c, clock.System(), []string{d.Masters[1], d.Masters[0], d.Masters[2]}, cluster.DefaultShards); !errors.Is(err, quarry.Exists) {
		t.Errorf("another order: %v", err)
	}
	if _, err := f.Stat(ctx, "/there"); err != nil {
		t.Error(err)
	}
}

// TestTransfer moves the leadership of a shard around while files are made: every one of them
// is there, each move is done when the call returns, and a repeated one changes nothing.
func TestTransfer(t *testing.T) {
	t.Parallel()
	d, f, ctx := dev(t, 1)
	c := rpc.NewClient(rpc.ClientConfig{
		Network: rpc.TCP, Clock: clock.System(), Identity: func() rpc.Identity { return rpc.Identity{Role: rpc.RoleClient} },
	})
	defer c.Close()
	masters := operator(t, d)
	stop := make(chan struct{})
	var made int
	var wg sync.WaitGroup
	wg.Go(func() {
		for ; ; made++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := f.Mkdir(ctx, fmt.Sprintf("/d%d", made)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for _, to := range []quarry.NodeID{1, 2, 2, 3, 1} {
		if err := masters.Transfer(ctx, &quarry.TransferRequest{Shard: 1, To: to}); err != nil {
			t.Errorf("to node %d: %v", to, err)
			continue
		}
		st, err := c.Master(d.Masters[to-1]).Status(ctx)
		if err != nil || st.Shards[1].Leader != to {
			t.Errorf("after the transfer to node %d: %+v, %v", to, st, err)
		}
	}
	close(stop)
	wg.Wait()
	if entries, _, err := f.List(ctx, "/", "", quarry.ListMax); err != nil || len(entries) != min(made, quarry.ListMax) {
		t.Errorf("%d directories were made, %d are there: %v", made, len(entries), err)
	}
	for _, req := range []quarry.TransferRequest{{Shard: 1, To: 9}, {Shard: 1}} {
		if err := masters.Transfer(ctx, &req); !errors.Is(err, quarry.Invalid) {
			t.Errorf("%+v: %v", req, err)
		}
	}
}

// TestAddShard adds shards while files are made.
func TestAddShard(t *testing.T) {
	t.Parallel()
	d, f, ctx := dev(t, 1)
	masters := operator(t, d)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := f.Mkdir(ctx, fmt.Sprintf("/d%d", i)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for i := range 3 {
		shard, err := cluster.AddShard(ctx, masters, clock.System())
		if want := quarry.ShardID(cluster.DefaultShards + 1 + i); err != nil || shard != want {
			t.Errorf("shard %d, %v, want %d", shard, err, want)
		}
	}
	close(stop)
	wg.Wait()
}

// slowly is a logger's handler that takes its time whenever a Raft group is made.
type slowly struct{ slog.Handler }

func (s slowly) Enabled(context.Context, slog.Level) bool { return true }

func (s slowly) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "newRaft") {
		<-time.After(500 * time.Millisecond)
	}
	return nil
}

func (s slowly) WithAttrs([]slog.Attr) slog.Handler { return s }
func (s slowly) WithGroup(string) slog.Handler      { return s }

// TestMastersOpenSlowly starts masters again whose first group elects a leader, and so calls
// the others, while the second one is still being made.
func TestMastersOpenSlowly(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	opts := cluster.DevOptions{Common: cluster.Common{Listen: "127.77.3.1:7400", Logger: slog.New(slog.DiscardHandler)}, Dir: t.TempDir(), Servers: 1}
	for range 2 {
		d, err := cluster.StartDev(ctx, opts)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		opts.Logger = slog.New(slowly{slog.DiscardHandler})
	}
}
