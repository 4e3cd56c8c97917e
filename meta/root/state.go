package root

import (
	"encoding/binary"
	"fmt"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/meta/move"
	"github.com/quarryfs/quarry/wire"
)

// Bounds of what the root group keeps.
const (
	mastersMax   = 64
	nodeMax      = 1 << 32
	serversMax   = 1 << 16
	disksMax     = 256 // of one server, those it has lost among them
	beforeMax    = 8   // earlier processes of one server that are remembered
	keysMax      = 16
	shardsMax    = quarry.Slots
	movesMax     = 16  // of slots, at a time
	textBytesMax = 512 // of an address, a rack, a boot id
)

// The tables; doc.go draws the keys.
const (
	tableHeader = 'h'
	tableMaster = 'm'
	tableServer = 's'
	tableDisk   = 'd'
	tableKey    = 'k'
	tableShard  = 'p'
	tableOrder  = 'o'
	tableMove   = 'v'
)

func headerKey() []byte { return []byte{tableHeader} }

func masterKey(n quarry.NodeID) []byte {
	return binary.BigEndian.AppendUint64([]byte{tableMaster}, uint64(n))
}

func serverKey(s quarry.ServerID) []byte {
	return binary.BigEndian.AppendUint64([]byte{tableServer}, uint64(s))
}

func diskKey(d quarry.DiskID) []byte { return append([]byte{tableDisk}, d[:]...) }

func keyKey(number uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{tableKey}, number)
}

func shardKey(s quarry.ShardID) []byte {
	return binary.BigEndian.AppendUint64([]byte{tableShard}, uint64(s))
}

func moveKey(m move.ID) []byte {
	return binary.BigEndian.AppendUint64([]byte{tableMove}, uint64(m))
}

// header is the state of the cluster as a whole.
type header struct {
	Cluster         quarry.ClusterID
	NextNode        quarry.NodeID
	NextServer      quarry.ServerID
	NextIncarnation quarry.Incarnation
	MapVersion      uint64
	Masters         uint32
	Keys            uint32
	LastKey         uint32
	Level           uint32 // that every master speaks; see [RaiseLevel]
	LastMove        move.ID
	BalancerOff     bool
	TrashMS         int64 // how long removed files are kept; 0: as the masters were started
}

func headerFields(w *wire.Walk, h *header) {
	wire.Fixed16(w, 1, &h.Cluster)
	wire.Uint(w, 2, &h.NextNode)
	wire.Uint(w, 3, &h.NextServer)
	wire.Uint(w, 4, &h.NextIncarnation)
	wire.Uint(w, 5, &h.MapVersion)
	wire.Uint(w, 6, &h.Masters)
	wire.Uint(w, 7, &h.Keys)
	wire.Uint(w, 8, &h.LastKey)
	wire.Uint(w, 9, &h.Level)
	wire.Uint(w, 10, &h.LastMove)
	wire.Bool(w, 11, &h.BalancerOff)
	wire.Uint(w, 20, &h.TrashMS)
}

func masterFields(w *wire.Walk, m *quarry.MasterNode) {
	wire.Uint(w, 1, &m.Node)
	wire.Fixed16(w, 2, &m.Disk)
	wire.String(w, 3, &m.Address, textBytesMax)
}

func keyFields(w *wire.Walk, k *quarry.Key) {
	wire.Uint(w, 1, &k.Number)
	secret := k.Secret[:]
	wire.Bytes(w, 2, &secret, len(k.Secret))
	if !w.Reading() {
		return
	}
	if len(secret) != len(k.Secret) {
		w.Fail("a key has %d bytes instead of %d", len(secret), len(k.Secret))
		return
	}
	k.Secret = [32]byte(secret)
}

// Disk is a disk of a server.
type Disk struct {
	Disk   quarry.DiskID
	Absent bool // the server did not report it when it registered last
}

func diskFields(w *wire.Walk, d *Disk) {
	wire.Fixed16(w, 1, &d.Disk)
	wire.Bool(w, 2, &d.Absent)
}

// Server is what the root group keeps of a chunk server.
type Server struct {
	Server       quarry.ServerID
	Incarnation  quarry.Incarnation // the last one issued
	Confirmed    quarry.Incarnation // the last one that a process is known to have taken
	Boot         string
	Address      string
	Rack         string
	Disks        []Disk
	Forgotten    bool  // gone for good; its number and disks are never used again
	RegisteredNS int64 // wall time of the last registration, to be shown
	Process      quarry.ProcessID
	SameBoot     bool               // the process before was of the same boot of its host
	Before       []quarry.ProcessID // processes before this one, the latest last
}

func serverFields(w *wire.Walk, s *Server) {
	wire.Uint(w, 1, &s.Server)
	wire.Uint(w, 2, &s.Incarnation)
	wire.Uint(w, 3, &s.Confirmed)
	wire.String(w, 4, &s.Boot, textBytesMax)
	wire.String(w, 5, &s.Address, textBytesMax)
	wire.String(w, 6, &s.Rack, textBytesMax)
	wire.List(w, 7, &s.Disks, disksMax, diskFields)
	wire.Bool(w, 8, &s.Forgotten)
	wire.Uint(w, 9, &s.RegisteredNS)
	wire.Fixed16(w, 10, &s.Process)
	wire.Bool(w, 11, &s.SameBoot)
	wire.Fixed16s(w, 12, &s.Before, beforeMax)
}

// owner is the value of a disk: the server that it belongs to.
type owner struct{ Server quarry.ServerID }

func ownerFields(w *wire.Walk, o *owner) { wire.Uint(w, 1, &o.Server) }

// state reads records from a view.
type state struct{ view meta.View }

// load reads the record at a key into m and reports whether it is there. A record that
// cannot be read breaks an invariant: it stops the process.
func load[M any](s *state, key []byte, m *M, fields func(*wire.Walk, *M)) bool {
	value, ok := s.view.Get(key)
	if ok {
		decode(key, value, m, fields)
	}
	return ok
}

func decode[M any](key, value []byte, m *M, fields func(*wire.Walk, *M)) {
	if err := wire.Unmarshal(value, m, fields); err != nil {
		panic(fmt.Sprintf("root: the state is broken: key %x, value %x: %v", key, value, err))
	}
}

// all returns every record of a table, in the order of the keys.
func all[M any](s *state, table byte, fields func(*wire.Walk, *M)) (list []M) {
	s.view.Scan([]byte{table}, []byte{table + 1}, func(key, value []byte) bool {
		var m M
		decode(key, value, &m, fields)
		list = append(list, m)
		return true
	})
	return list
}

func (s *state) loadHeader() (h header) {
	load(s, headerKey(), &h, headerFields)
	return h
}

// tx is the state while one command is applied.
type tx struct {
	state
	kv     meta.KV
	header header
	wallNS int64
}

func put[M any](t *tx, key []byte, m *M, fields func(*wire.Walk, *M)) {
	t.kv.Set(key, wire.Marshal(nil, m, fields))
}
