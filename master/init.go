package master

import (
	"context"
	"errors"
	"io/fs"
	"reflect"
	"slices"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/crc32c"
	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/raft"
	"github.com/quarryfs/quarry/wire"
)

// The file "cluster" says how this master came to its cluster, by Init or by Join, and whether it
// was removed from it since. It is written before anything else is made, so that a crash in the middle is made good when the
// process starts again. It is a message of package wire (originFields) behind the magic
// "QUARRYCL", and behind it its CRC32C, 4 bytes little-endian.
const (
	originName     = "cluster"
	originTemp     = "cluster.tmp"
	originMagic    = "QUARRYCL"
	originBytesMax = 64 << 10

	mastersMax      = 31
	addressBytesMax = 300
	shardsMax       = 256
)

// origin is how a master came to its cluster.
type origin struct {
	Version uint32
	Node    quarry.NodeID
	Init    *quarry.InitRequest // nil if it joined
	Join    *quarry.JoinRequest // nil if it was there from the beginning
	Removed bool                // the cluster has removed it since
}

const originVersion = 1

func originFields(w *wire.Walk, o *origin) {
	wire.Uint(w, 1, &o.Version)
	wire.Uint(w, 2, &o.Node)
	wire.Optional(w, 3, &o.Init, initFields)
	wire.Optional(w, 4, &o.Join, joinFields)
	wire.Bool(w, 5, &o.Removed)
}

func initFields(w *wire.Walk, r *quarry.InitRequest) {
	wire.Fixed16(w, 1, &r.Cluster)
	wire.List(w, 2, &r.Masters, mastersMax, nodeFields)
	wire.Uint(w, 3, &r.Shards)
	wire.Uint(w, 4, &r.Key.Number)
	secret := r.Key.Secret[:]
	wire.Bytes(w, 5, &secret, len(r.Key.Secret))
	if w.Reading() { // a request that is written may be another goroutine's, too
		copy(r.Key.Secret[:], secret)
	}
}

func joinFields(w *wire.Walk, r *quarry.JoinRequest) {
	wire.Fixed16(w, 1, &r.Cluster)
	wire.Message(w, 2, &r.Node, nodeFields)
	wire.List(w, 3, &r.Masters, mastersMax, nodeFields)
	wire.Uints(w, 4, &r.Shards, shardsMax+1)
}

func nodeFields(w *wire.Walk, n *quarry.MasterNode) {
	wire.Uint(w, 1, &n.Node)
	wire.Fixed16(w, 2, &n.Disk)
	wire.String(w, 3, &n.Address, addressBytesMax)
}

// loadOrigin reads the file; nil if there is none, because the master belongs to no cluster.
func loadOrigin(fsys disk.FS) (*origin, error) {
	f, err := fsys.Open(originName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, disk.Wrap("open", originName, err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, disk.Wrap("open", originName, err)
	}
	broken := quarry.Errorf("open", quarry.Corrupt, originName, "the file does not match its checksum")
	if size < int64(len(originMagic))+4 || size > originBytesMax {
		return nil, broken
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil {
		return nil, disk.Wrap("open", originName, err)
	}
	body, sum := b[:size-4], b[size-4:]
	if string(body[:len(originMagic)]) != originMagic || !slices.Equal(sum, checksum(body)) {
		return nil, broken
	}
	o := &origin{}
	if err := wire.Unmarshal(body[len(originMagic):], o, originFields); err != nil {
		return nil, broken
	}
	if o.Version != originVersion {
		return nil, quarry.Errorf("open", quarry.Unsupported, originName,
			"the folder has format version %d; this release reads version %d: start a release that knows it", o.Version, originVersion)
	}
	if (o.Init == nil) == (o.Join == nil) {
		return nil, broken
	}
	return o, nil
}

// save makes the origin durable, in one step.
func (o *origin) save(fsys disk.FS) error {
	b := wire.Marshal([]byte(originMagic), o, originFields)
	b = append(b, checksum(b)...)
	if err := fsys.Remove(originTemp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return disk.Wrap("write", originTemp, err)
	}
	f, err := fsys.Create(originTemp)
	if err != nil {
		return disk.Wrap("write", originTemp, err)
	}
	_, err = f.WriteAt(b, 0)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = fsys.Rename(originTemp, originName)
	}
	if err == nil {
		err = fsys.SyncDir(".")
	}
	return disk.Wrap("write", originName, err)
}

func checksum(b []byte) []byte {
	sum := crc32c.Checksum(b)
	return []byte{byte(sum), byte(sum >> 8), byte(sum >> 16), byte(sum >> 24)}
}

// cluster returns the cluster that the master came to.
func (o *origin) cluster() quarry.ClusterID {
	if o.Init != nil {
		return o.Init.Cluster
	}
	return o.Join.Cluster
}

// Identify tells what this process is.
func (m *Master) Identify(context.Context) (*quarry.IdentifyReply, error) {
	reply := &quarry.IdentifyReply{Disk: m.disk, Address: m.cfg.Address, Release: m.cfg.Release, Level: quarry.FeatureLevel}
	if o := m.begun.Load(); o != nil {
		reply.Node = o.Node
		if o.Init != nil {
			init := *o.Init
			init.Key.Secret = [32]byte{} // it is no business of whoever asks
			reply.Init = &init
		}
	}
	return reply, nil
}

// Init makes this waiting master a member of a new cluster.
func (m *Master) Init(ctx context.Context, req *quarry.InitRequest) error {
	self := slices.IndexFunc(req.Masters, func(n quarry.MasterNode) bool { return n.Disk == m.disk })
	switch {
	case req.Cluster.IsZero() || len(req.Masters) == 0 || len(req.Masters) > mastersMax || req.Shards < 1 || req.Shards > shardsMax:
		return quarry.Errorf("init", quarry.Invalid, "", "a cluster has an id, 1 to %d masters and 1 to %d shards", mastersMax, shardsMax)
	case self < 0:
		return quarry.Errorf("init", quarry.Invalid, m.cfg.Address, "the disk %v of this master is not among those of the new cluster", m.disk)
	}
	for i, n := range req.Masters {
		doubled := slices.ContainsFunc(req.Masters[:i], func(o quarry.MasterNode) bool { return o.Disk == n.Disk || o.Address == n.Address })
		if n.Node != quarry.NodeID(i+1) || !sane(n) || doubled {
			return quarry.Errorf("init", quarry.Invalid, "", "the masters are numbered from 1, and each has a disk and an address of its own")
		}
	}
	return m.come("init", &origin{Version: originVersion, Node: req.Masters[self].Node, Init: req})
}

// Join makes this waiting master a member of an existing cluster. Its groups are empty until
// their leaders fill them.
func (m *Master) Join(ctx context.Context, req *quarry.JoinRequest) error {
	switch {
	case req.Cluster.IsZero() || req.Node.Node == 0 || len(req.Masters) == 0 || len(req.Shards) == 0:
		return quarry.Errorf("join", quarry.Invalid, "", "the cluster, this master's number, the other masters and the shards must be named")
	case len(req.Masters) > mastersMax || len(req.Shards) > shardsMax+1 || !sane(req.Node) ||
		slices.ContainsFunc(req.Masters, func(n quarry.MasterNode) bool { return !sane(n) }):
		return quarry.Errorf("join", quarry.Invalid, "", "a cluster has at most %d masters, with addresses of at most %d bytes, and %d shards", mastersMax, addressBytesMax, shardsMax)
	case req.Node.Disk != m.disk:
		return quarry.Errorf("join", quarry.Invalid, m.cfg.Address, "the request is for disk %v, this is disk %v", req.Node.Disk, m.disk)
	}
	return m.come("join", &origin{Version: originVersion, Node: req.Node.Node, Join: req})
}

// sane reports whether a master can stand in the file: what is written must be readable.
func sane(n quarry.MasterNode) bool {
	return !n.Disk.IsZero() && n.Address != "" && len(n.Address) <= addressBytesMax
}

// come makes this master what o says, durably, and starts its groups. What was made durable
// and could not be started is started by the same request again, or by the next process.
func (m *Master) come(op string, o *origin) error {
	m.turn <- struct{}{}
	defer func() { <-m.turn }()
	if m.ctx.Err() != nil {
		return quarry.Errorf(op, quarry.Unavailable, m.cfg.Address, "the master is stopping")
	}
	before := m.begun.Load()
	switch {
	case before == nil:
		if err := o.save(m.cfg.Folder); err != nil {
			return err
		}
		m.begun.Store(o)
		m.cfg.Logger.Info("came to a cluster", "cluster", o.cluster(), "node", uint64(o.Node))
	case !before.same(o):
		return quarry.Errorf(op, quarry.Exists, m.cfg.Address, "the master is node %d of cluster %v already", before.Node, before.cluster())
	case before.Removed:
		return before.removedError(m.cfg.Address)
	default:
		o = before
	}
	if m.started.Load() {
		return nil
	}
	return m.start(o)
}

// same reports whether a request asks for what the master is already. Who joined may be told
// of other masters by a repeated request; they are known from the cluster itself by then.
func (o *origin) same(other *origin) bool {
	if o.Init != nil && other.Init != nil && !reflect.DeepEqual(o.Init, other.Init) {
		return false
	}
	return o.cluster() == other.cluster() && o.Node == other.Node
}

// spread sends the request that made the cluster to the other masters until there is a
// cluster: whoever sent it here may have died before it had told everybody.
func (m *Master) spread(req *quarry.InitRequest) {
	for m.root.known.Load() == nil {
		if m.cfg.Clock.Sleep(m.ctx, spreadEvery) != nil {
			return
		}
		for _, n := range req.Masters {
			if n.Disk == m.disk || m.root.known.Load() != nil {
				continue
			}
			ctx, cancel := m.cfg.Clock.WithTimeout(m.ctx, identifyTime)
			if err := m.cfg.Client.Master(n.Address).Init(ctx, req); err != nil {
				m.cfg.Logger.Info("waiting for the other masters", "master", n.Address, "error", err)
			}
			cancel()
		}
	}
}

const spreadEvery = 2 * time.Second

// groups lists the groups that the master has been a member of from its beginning, and, if
// it made them, their members.
func (o *origin) groups() ([]quarry.ShardID, []raft.Member) {
	if o.Join != nil {
		return o.Join.Shards, nil
	}
	var members []raft.Member
	for _, n := range o.Init.Masters {
		members = append(members, raft.Member{Node: n.Node, Disk: n.Disk, Address: n.Address})
	}
	var ids []quarry.ShardID
	for i := 0; i <= o.Init.Shards; i++ {
		ids = append(ids, quarry.ShardID(i))
	}
	return ids, members
}

// originNow returns how this master came to its cluster; nil if it has none.
func (m *Master) originNow() *origin { return m.begun.Load() }
