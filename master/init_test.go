package master

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/raft"
	"github.com/quarryfs/quarry/rpc"
)

// open opens a master alone on a folder.
func open(t *testing.T, folder disk.FS, state vfs.FS) *Master {
	t.Helper()
	client := rpc.NewClient(rpc.ClientConfig{
		Network: rpc.TCP, Clock: clock.System(), Identity: func() rpc.Identity { return rpc.Identity{Role: rpc.RoleMaster} },
	})
	m, err := Open(Config{
		Folder: folder, StateFS: state, StateDir: "state", Address: "m1:1", Client: client, Clock: clock.System(),
		Servers: func(quarry.Member) quarry.ChunkServer { return nil }, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = m.Close(context.Background())
		client.Close()
	})
	return m
}

func initRequest(m *Master) *quarry.InitRequest {
	return &quarry.InitRequest{
		Cluster: quarry.ClusterID{1}, Shards: 2, Key: quarry.Key{Number: 1, Secret: [32]byte{9}},
		Masters: []quarry.MasterNode{{Node: 1, Disk: m.disk, Address: "m1:1"}},
	}
}

func is(t *testing.T, err error, kind quarry.Kind) {
	t.Helper()
	if quarry.KindOf(err) != kind {
		t.Fatalf("got %v, want %v", err, kind)
	}
}

func TestWaitingMasterRefuses(t *testing.T) {
	m := open(t, disk.NewMem(), vfs.NewMem())
	ctx := t.Context()
	calls := map[string]func() error{
		"lookup":    func() error { _, err := m.Lookup(ctx, &quarry.LookupRequest{From: quarry.RootInode}); return err },
		"make":      func() error { _, err := m.Make(ctx, &quarry.MakeRequest{Parent: quarry.RootInode}); return err },
		"roll":      func() error { _, err := m.Roll(ctx, &quarry.RollRequest{}); return err },
		"session":   func() error { _, err := m.Session(ctx, &quarry.SessionRequest{Shard: 1}); return err },
		"register":  func() error { _, err := m.Register(ctx, &quarry.RegisterRequest{}); return err },
		"heartbeat": func() error { _, err := m.Heartbeat(ctx, &quarry.HeartbeatRequest{}); return err },
		"inventory": func() error { _, err := m.Inventory(ctx, &quarry.InventoryRequest{Shard: 1}); return err },
		"topology":  func() error { _, err := m.Topology(ctx); return err },
		"status":    func() error { _, err := m.Status(ctx); return err },
		"replace":   func() error { _, err := m.Replace(ctx, &quarry.ReplaceRequest{}); return err },
		"transfer":  func() error { return m.Transfer(ctx, &quarry.TransferRequest{Shard: 1, To: 2}) },
	}
	for name, call := range calls {
		if err := call(); quarry.KindOf(err) != quarry.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
	id, err := m.Identify(ctx)
	if err != nil || id.Init != nil || id.Disk.IsZero() {
		t.Fatalf("%+v, %v", id, err)
	}
	if m.Err() != nil || !m.Identity().Cluster.IsZero() {
		t.Fatal("a waiting master has a cluster, or has failed")
	}
}

func TestInit(t *testing.T) {
	folder, state := disk.NewMem(), vfs.NewMem()
	m := open(t, folder, state)
	ctx := t.Context()
	bad := map[string]func(*quarry.InitRequest){
		"no cluster":   func(r *quarry.InitRequest) { r.Cluster = quarry.ClusterID{} },
		"no shard":     func(r *quarry.InitRequest) { r.Shards = 0 },
		"other disk":   func(r *quarry.InitRequest) { r.Masters[0].Disk[0]++ },
		"other number": func(r *quarry.InitRequest) { r.Masters[0].Node = 2 },
		"long address": func(r *quarry.InitRequest) { r.Masters[0].Address = string(make([]byte, addressBytesMax+1)) },
		"doubled disk": func(r *quarry.InitRequest) {
			r.Masters = append(r.Masters, quarry.MasterNode{Node: 2, Disk: m.disk, Address: "x"})
		},
		"too many":      func(r *quarry.InitRequest) { r.Masters = make([]quarry.MasterNode, 1000); r.Masters[0].Disk = m.disk },
		"many shards":   func(r *quarry.InitRequest) { r.Shards = 1 << 30 },
		"shards are -1": func(r *quarry.InitRequest) { r.Shards = -1 },
	}
	for name, change := range bad {
		req := initRequest(m)
		change(req)
		if err := m.Init(ctx, req); quarry.KindOf(err) != quarry.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	for range 2 {
		if err := m.Init(ctx, initRequest(m)); err != nil {
			t.Fatal(err)
		}
	}
	for name, change := range map[string]func(*quarry.InitRequest){
		"another cluster": func(r *quarry.InitRequest) { r.Cluster[0]++ },
		"more shards":     func(r *quarry.InitRequest) { r.Shards++ },
		"another key":     func(r *quarry.InitRequest) { r.Key.Secret[0]++ },
		"more masters": func(r *quarry.InitRequest) {
			r.Masters = append(r.Masters, quarry.MasterNode{Node: 2, Disk: quarry.DiskID{7}, Address: "m2:1"})
		},
	} {
		req := initRequest(m)
		change(req)
		if err := m.Init(ctx, req); quarry.KindOf(err) != quarry.Exists {
			t.Errorf("%s: %v", name, err)
		}
	}
	id, err := m.Identify(ctx)
	if err != nil || id.Init == nil || id.Node != 1 || id.Init.Key.Secret != [32]byte{} || id.Init.Key.Number != 1 {
		t.Fatalf("%+v, %v", id, err)
	}
	if m.originNow().Init.Key.Secret[0] != 9 {
		t.Fatal("Identify spoilt the key")
	}
	if err := m.Close(ctx); err != nil {
		t.Fatal(err)
	}
	is(t, m.Init(ctx, initRequest(m)), quarry.Unavailable)

	again := open(t, folder, state)
	if id := again.Identity(); id.Cluster != (quarry.ClusterID{1}) || id.Node != 1 {
		t.Fatalf("after a restart: %+v", id)
	}
	if err := again.Init(ctx, initRequest(again)); err != nil {
		t.Fatal(err)
	}
}

// A master that is closed while it waits does not begin.
func TestInitAfterClose(t *testing.T) {
	m := open(t, disk.NewMem(), vfs.NewMem())
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	is(t, m.Init(t.Context(), initRequest(m)), quarry.Unavailable)
	if o, err := loadOrigin(m.cfg.Folder); o != nil || err != nil {
		t.Fatalf("%+v, %v", o, err)
	}
}

func TestJoinRefuses(t *testing.T) {
	m := open(t, disk.NewMem(), vfs.NewMem())
	good := func() *quarry.JoinRequest {
		node := quarry.MasterNode{Node: 4, Disk: m.disk, Address: "m1:1"}
		return &quarry.JoinRequest{Cluster: quarry.ClusterID{1}, Node: node, Masters: []quarry.MasterNode{node}, Shards: []quarry.ShardID{0, 1}}
	}
	for name, change := range map[string]func(*quarry.JoinRequest){
		"no cluster":   func(r *quarry.JoinRequest) { r.Cluster = quarry.ClusterID{} },
		"another disk": func(r *quarry.JoinRequest) { r.Node.Disk[0]++ },
		"no number":    func(r *quarry.JoinRequest) { r.Node.Node = 0 },
		"no shards":    func(r *quarry.JoinRequest) { r.Shards = nil },
		"many shards":  func(r *quarry.JoinRequest) { r.Shards = make([]quarry.ShardID, 1000) },
		"many masters": func(r *quarry.JoinRequest) { r.Masters = make([]quarry.MasterNode, 1000) },
	} {
		req := good()
		change(req)
		if err := m.Join(t.Context(), req); quarry.KindOf(err) != quarry.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	for range 2 {
		if err := m.Join(t.Context(), good()); err != nil {
			t.Fatal(err)
		}
	}
	is(t, m.Init(t.Context(), initRequest(m)), quarry.Exists) // it is node 4
}

func TestOriginFile(t *testing.T) {
	fsys := disk.NewMem()
	if o, err := loadOrigin(fsys); o != nil || err != nil {
		t.Fatalf("%+v, %v", o, err)
	}
	node := quarry.MasterNode{Node: 3, Disk: quarry.DiskID{1}, Address: "m3:1"}
	for _, want := range []*origin{
		{Version: originVersion, Node: 3, Init: &quarry.InitRequest{
			Cluster: quarry.ClusterID{1}, Masters: []quarry.MasterNode{node}, Shards: 2, Key: quarry.Key{Number: 1, Secret: [32]byte{9, 31: 8}},
		}},
		{Version: originVersion, Node: 3, Join: &quarry.JoinRequest{
			Cluster: quarry.ClusterID{1}, Node: node, Masters: []quarry.MasterNode{node}, Shards: []quarry.ShardID{0, 1, 2},
		}},
	} {
		if err := want.save(fsys); err != nil {
			t.Fatal(err)
		}
		got, err := loadOrigin(fsys)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v, %v", got, err)
		}
	}

	later := &origin{Version: originVersion + 1, Node: 3, Join: &quarry.JoinRequest{Cluster: quarry.ClusterID{1}}}
	if err := later.save(fsys); err != nil {
		t.Fatal(err)
	}
	_, err := loadOrigin(fsys)
	is(t, err, quarry.Unsupported)

	size, err := fsys.Size(originName)
	if err != nil {
		t.Fatal(err)
	}
	for at := range size {
		broken := fsys.Clone()
		f, err := broken.Open(originName)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1)
		if _, err := f.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 4
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
		_, err = loadOrigin(broken)
		is(t, err, quarry.Corrupt)
		if err := f.Truncate(at); err != nil {
			t.Fatal(err)
		}
		_, err = loadOrigin(broken)
		is(t, err, quarry.Corrupt)
	}
}

// TestFounderCrashesInTheMiddle crashes the only founder when the log of its root group is there, and
// the state is not: it founds the group when it is started again.
func TestFounderCrashesInTheMiddle(t *testing.T) {
	synctestCluster(t, 0, func(t *testing.T, c *testCluster) {
		n := &testNode{c: c, address: "m1:1", folder: disk.NewMem(), state: vfs.NewMem()}
		n.level.Store(quarry.FeatureLevel)
		id, _, _, err := raft.DiskIdentity(n.folder)
		if err != nil {
			t.Fatal(err)
		}
		o := &origin{Version: 1, Node: 1, Init: &quarry.InitRequest{Cluster: quarry.ClusterID{1}, Shards: testShards, Key: quarry.Key{Number: 1}, Masters: []quarry.MasterNode{{Node: 1, Disk: id, Address: n.address}}}}
		if err := o.save(n.folder); err != nil {
			t.Fatal(err)
		}
		client := rpc.NewClient(rpc.ClientConfig{Network: c.net, Clock: clock.Simulated(), Identity: func() rpc.Identity { return rpc.Identity{Role: rpc.RoleMaster} }})
		h, err := raft.Open(raft.Config{
			Node: 1, Cluster: o.cluster(), Address: n.address, Log: n.folder, State: n.state, StateDir: "state",
			Transport: &peers{client: client, clock: clock.Simulated()}, Clock: clock.Simulated(), Logger: slog.New(slog.DiscardHandler), LogBytes: testLogBytes,
		})
		if err == nil {
			err = h.AddGroup(quarry.RootShard, &rootGroup{}) // a log without a state, as the crash leaves it
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(h.Close(), client.Close()); err != nil {
			t.Fatal(err)
		}
		c.nodes = append(c.nodes, n)
		n.start()
		c.sleep(10 * time.Second)
		for id := range quarry.ShardID(testShards + 1) {
			if st, err := n.host.Status(id); err != nil || st.Leader != 1 {
				t.Errorf("group %d: %+v, %v", id, st, err)
			}
		}
	})
}
