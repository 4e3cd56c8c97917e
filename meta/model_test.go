package meta

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/quarryfs/quarry"
)

var (
	modelSeeds = flag.Int("model.seeds", 40, "how many random runs TestModel makes")
	modelSeed  = flag.Uint64("model.seed", 0, "make only the random run with this seed")
	modelSteps = flag.Int("model.steps", 400, "commands in a random run")
)

// TestModel sends random commands to a shard and compares it, after each one, with a simple
// model of the namespace and of the replicas that exist on servers.
func TestModel(t *testing.T) {
	first, last := uint64(1), uint64(*modelSeeds)
	if *modelSeed != 0 {
		first, last = *modelSeed, *modelSeed
	}
	for seed := first; seed <= last; seed++ {
		m := newModel(t, seed)
		for step := range *modelSteps {
			m.step()
			if wrong := m.compare(); wrong != "" {
				last, _ := DecodeCommand(m.log[len(m.log)-1])
				t.Fatalf("step %d: %s\nafter %T %+v\nrepeat: go test ./meta -run TestModel -model.seed %d", step, wrong, last.Body, last.Body, seed)
			}
		}
		again := NewMemory()
		for _, command := range m.log {
			var fresh Machine // nothing that a machine remembers may matter
			fresh.Apply(again, command)
		}
		if !bytes.Equal(flatten(m.kv), flatten(again)) {
			t.Fatalf("the same commands gave two states\nrepeat: go test ./meta -run TestModel -model.seed %d", seed)
		}
	}
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{
		shard: newShard(t), rand: rand.New(rand.NewPCG(seed, 0)), root: &node{kind: quarry.KindDir, inode: quarry.RootInode},
		bytes: map[quarry.Handle]map[quarry.ServerID]bool{}, lengths: map[quarry.Handle]int64{}, appended: map[quarry.Handle]bool{}, versions: map[quarry.Handle]quarry.Version{},
	}
	m.nodes = []*node{m.root}
	return m
}

// node is a file or directory of the model; the list of nodes keeps those that are gone too,
// so that commands name them.
type node struct {
	kind     quarry.FileKind
	inode    quarry.Inode
	gone     bool
	children map[string]*node
	pieces   []quarry.Piece // of a file, the open-ended one last
	removed  LogTime        // when it was, if it is gone
	now      bool           // and not to be kept
}

type model struct {
	*shard
	rand     *rand.Rand
	root     *node
	nodes    []*node
	handles  []quarry.Handle // all that were opened
	owned    []quarry.Handle
	older    [][]byte                                   // the commands of a shard that the slots have left
	bytes    map[quarry.Handle]map[quarry.ServerID]bool // replicas that exist
	lengths  map[quarry.Handle]int64                    // that a seal has decided
	appended map[quarry.Handle]bool                     // chunks of tails, and what was merged from them
	versions map[quarry.Handle]quarry.Version
}

func (m *model) step() {
	m.time += LogTime(m.rand.IntN(50))
	m.wall += int64(m.rand.IntN(5))
	steps := []func(){
		m.make, m.make, m.link, m.rename, m.rename, m.remove, m.undelete, m.undelete, m.openTail, m.openTail, m.reopen, m.reopen, m.merge, m.openOwned,
		m.beginSeal, m.beginSeal, m.seal, m.seal, m.hold, m.hold, m.dropReplica, m.addReplica, m.serverGone,
		m.settle, m.settle, m.collect, m.sessions, m.retry, m.restart,
	}
	steps[m.rand.IntN(len(steps))]()
}

func pick[T any](r *rand.Rand, list []T) (v T) {
	if len(list) > 0 {
		v = list[r.IntN(len(list))]
	}
	return v
}

func (m *model) name() string { return pick(m.rand, []string{"a", "b", "c", "d"}) }

func (m *model) node() *node { return pick(m.rand, m.nodes) }

// want compares the outcome of a command with what the model expects; 0 is success.
func (m *model) want(kind quarry.Kind, b Body) *Result {
	m.t.Helper()
	r := m.do(b)
	if quarry.KindOf(r.Err) != kind {
		m.t.Fatalf("%T %+v: %v, the model says kind %d", b, b, r.Err, kind)
	}
	return r
}

// dirError is why a node is no directory, if so.
func (n *node) dirError() quarry.Kind {
	switch {
	case n.gone:
		return quarry.NotFound
	case n.kind != quarry.KindDir:
		return quarry.NotDir
	}
	return 0
}

func (m *model) add(dir *node, name string, n *node) {
	if dir.children == nil {
		dir.children = map[string]*node{}
	}
	dir.children[name] = n
	if !slices.Contains(m.nodes, n) {
		m.nodes = append(m.nodes, n)
	}
}

func (m *model) make() {
	dir, name := m.node(), m.name()
	c := &Make{Parent: dir.inode, Name: name, Kind: quarry.FileKind(1 + m.rand.IntN(2)), Existing: m.rand.IntN(2) == 0}
	old := dir.children[name]
	kind := dir.dirError()
	if kind == 0 && old != nil && (!c.Existing || old.kind != c.Kind) {
		kind = quarry.Exists
	}
	if r := m.want(kind, c); r.Err == nil && old == nil {
		m.add(dir, name, &node{kind: c.Kind, inode: r.Attr.Inode})
	}
}

func (m *model) link() {
	dir, name := m.node(), m.name()
	c := &Link{Parent: dir.inode, Name: name, Replace: m.rand.IntN(2) == 0}
	n := &node{kind: quarry.KindFile}
	linked := map[quarry.Handle]bool{}
	end := int64(0)
	for _, h := range m.owned {
		length, sealed := m.lengths[h]
		if !sealed || length == 0 || len(linked) == 3 || m.record(h).State != quarry.ChunkSealed {
			continue
		}
		length = 1 + m.rand.Int64N(length)
		linked[h] = true
		c.Pieces = append(c.Pieces, quarry.LinkPiece{Handle: h, Length: length})
		n.pieces = append(n.pieces, quarry.Piece{Offset: end, Length: length, Handle: h, Kind: quarry.PieceChunk})
		end += length
	}
	if m.rand.IntN(2) == 0 {
		c.Pieces = append(c.Pieces, quarry.LinkPiece{Inline: []byte("inline")})
		n.pieces = append(n.pieces, quarry.Piece{Offset: end, Length: 6, Inline: []byte("inline"), Kind: quarry.PieceInline})
	}
	old := dir.children[name]
	kind := dir.dirError()
	switch {
	case kind != 0 || old == nil:
	case !c.Replace:
		kind = quarry.Exists
	case old.kind == quarry.KindDir:
		kind = quarry.IsDir
	}
	r := m.want(kind, c)
	if r.Err != nil {
		return
	}
	if old != nil {
		old.gone, old.now, old.removed = true, false, m.time
	}
	n.inode = r.Attr.Inode
	m.add(dir, name, n)
	m.owned = slices.DeleteFunc(m.owned, func(h quarry.Handle) bool { return linked[h] })
}

func (n *node) holds(other *node) bool {
	if n == other {
		return true
	}
	for _, c := range n.children {
		if c.holds(other) {
			return true
		}
	}
	return false
}

func (m *model) rename() {
	from, to, name, toName := m.node(), m.node(), m.name(), m.name()
	c := &Rename{Parent: from.inode, Name: name, ToParent: to.inode, ToName: toName, Replace: m.rand.IntN(2) == 0}
	n, old := from.children[name], to.children[toName]
	kind := from.dirError()
	if kind == 0 {
		kind = to.dirError()
	}
	switch {
	case kind != 0:
	case n == nil:
		kind = quarry.NotFound
	case old == n:
	case old != nil && !c.Replace:
		kind = quarry.Exists
	case old != nil && n.kind == quarry.KindFile && old.kind == quarry.KindDir:
		kind = quarry.IsDir
	case old != nil && n.kind == quarry.KindDir && old.kind == quarry.KindFile:
		kind = quarry.NotDir
	case old != nil && old.kind == quarry.KindDir:
		kind = quarry.Exists
	case n.holds(to):
		kind = quarry.Invalid
	}
	if r := m.want(kind, c); r.Err == nil && old != n {
		if old != nil {
			old.gone, old.now, old.removed = true, false, m.time
		}
		delete(from.children, name)
		m.add(to, toName, n)
	}
}

func (m *model) remove() {
	dir, name := m.node(), m.name()
	c := &Remove{Parent: dir.inode, Name: name, Dir: m.rand.IntN(2) == 0, Now: m.rand.IntN(3) == 0}
	n := dir.children[name]
	kind := dir.dirError()
	switch {
	case kind != 0:
	case n == nil:
		kind = quarry.NotFound
	case n.kind == quarry.KindDir && !c.Dir:
		kind = quarry.IsDir
	case n.kind == quarry.KindFile && c.Dir:
		kind = quarry.NotDir
	case len(n.children) > 0:
		kind = quarry.NotEmpty
	}
	if r := m.want(kind, c); r.Err == nil {
		n.gone, n.now, n.removed = true, c.Now, m.time
		delete(dir.children, name)
	}
}

// undelete brings a file back with all its pieces, or it is collected, or was not to be kept.
func (m *model) undelete() {
	dir, name, n := m.node(), m.name(), m.node()
	c := &Undelete{Parent: dir.inode, Name: name, Inode: n.inode}
	kind := dir.dirError()
	switch {
	case kind != 0:
	case dir.children[name] != nil:
		kind = quarry.Exists
	case !n.gone || n.now || n.kind == quarry.KindDir:
		kind = quarry.NotFound
	case n.removed+modelKeepMS <= m.time:
		st := reading(m.kv) // the collector may have come to it
		if i := st.anyInode(n.inode); i == nil || i.Doomed {
			kind = quarry.NotFound
		}
	}
	if r := m.want(kind, c); r.Err == nil {
		n.gone = false
		m.add(dir, name, n)
	}
}

// modelKeepMS is how long the model keeps removed files.
const modelKeepMS = 500

const modelServers = 5

func (m *model) newChunk() NewChunk {
	var servers []quarry.ServerID
	for _, i := range m.rand.Perm(modelServers)[:1+m.rand.IntN(3)] {
		servers = append(servers, quarry.ServerID(i+1))
	}
	c := m.chunk(servers...)
	c.Wanted = uint8(1 + m.rand.IntN(3))
	return c
}

func (m *model) opened(c NewChunk) {
	m.handles = append(m.handles, c.Handle)
	m.bytes[c.Handle] = map[quarry.ServerID]bool{}
	for _, member := range c.Members {
		m.bytes[c.Handle][member.Server] = true
	}
}

func (m *model) openTail() {
	n := m.node()
	if n.gone || n.kind != quarry.KindFile {
		return
	}
	c := m.newChunk()
	tail, err := Tail(m.kv, n.inode)
	if err != nil {
		m.t.Fatal(err)
	}
	o := &OpenTail{File: n.inode, Session: m.session, Chunk: c}
	kind, end := quarry.Kind(0), int64(0)
	if tail.Chunk != nil {
		o.Last, o.Version = tail.Chunk.Handle, tail.Chunk.Version
	}
	if len(n.pieces) > 0 {
		last := n.pieces[len(n.pieces)-1]
		if end = last.Offset + last.Length; last.Length == quarry.OpenEnded {
			if kind = quarry.Exists; tail.Chunk.State == quarry.ChunkLost {
				kind = quarry.Corrupt
			}
		}
	}
	if r := m.want(kind, o); r.Err == nil {
		n.pieces = append(n.pieces, quarry.Piece{Offset: end, Length: quarry.OpenEnded, Handle: c.Handle, Kind: quarry.PieceChunk})
		m.opened(c)
		m.appended[c.Handle] = true
	}
}

func (m *model) openOwned() {
	c := m.newChunk()
	m.want(0, &OpenOwned{Chunks: []NewChunk{c}})
	m.opened(c)
	m.owned = append(m.owned, c.Handle)
}

// someChunk returns a chunk that has a record, or nil.
func (m *model) someChunk() *ChunkRecord {
	h := pick(m.rand, m.handles)
	st := reading(m.kv)
	return st.chunk(h)
}

func (m *model) beginSeal() {
	if c := m.someChunk(); c != nil {
		m.do(&BeginSeal{Handle: c.Handle, Version: c.Version - quarry.Version(m.rand.IntN(2))})
	}
}

func (m *model) seal() {
	c := m.someChunk()
	if c == nil {
		return
	}
	s := &Seal{Handle: c.Handle, Version: c.Version, Length: int64(m.rand.IntN(4)) * 100, Lost: m.rand.IntN(8) == 0}
	for _, r := range c.Replicas {
		if m.rand.IntN(5) > 0 {
			v := Verdict(m.rand.IntN(4))
			if !s.Lost && m.rand.IntN(3) > 0 {
				v = VerdictGood
			}
			s.Members = append(s.Members, MemberVerdict{r.Server, v})
		}
	}
	before := *c
	r := m.do(s)
	if r.Err != nil || before.State != quarry.ChunkSealing && before.State != quarry.ChunkLost {
		return
	}
	if before.LengthKnown || s.Lost && before.State == quarry.ChunkLost {
		return // it was decided before
	}
	for _, v := range s.Members {
		if v.Verdict == VerdictGone {
			delete(m.bytes[c.Handle], v.Server)
		}
	}
	if s.Lost {
		return
	}
	for _, n := range m.nodes {
		last := len(n.pieces) - 1
		if last < 0 || n.pieces[last].Handle != c.Handle || n.pieces[last].Length != quarry.OpenEnded {
			continue
		}
		if n.pieces[last].Length = s.Length; s.Length == 0 {
			n.pieces = n.pieces[:last]
		}
	}
}

func (m *model) hold() {
	c := m.someChunk()
	if c == nil {
		return
	}
	h := &Hold{Handle: c.Handle, Version: c.Version}
	for id := quarry.ServerID(1); id <= modelServers; id++ {
		if m.bytes[c.Handle][id] && m.rand.IntN(3) > 0 {
			h.Holders = append(h.Holders, holders(uint32(m.rand.IntN(10)/9), id)...)
		}
	}
	m.do(h)
}

func (m *model) dropReplica() {
	c := m.someChunk()
	if c == nil {
		return
	}
	d := &DropReplica{
		Handle: c.Handle, Version: c.Version, Server: quarry.ServerID(1 + m.rand.IntN(modelServers)), Reason: DropReason(m.rand.IntN(5)),
	}
	if r := m.do(d); r.Err == nil && d.Reason == DropGone {
		delete(m.bytes[c.Handle], d.Server)
	}
}

func (m *model) addReplica() {
	c := m.someChunk()
	if c == nil {
		return
	}
	a := &AddReplica{Handle: c.Handle, Version: c.Version, Copy: holders(c.CRC, quarry.ServerID(1+m.rand.IntN(modelServers)))[0]}
	if r := m.do(a); r.Err == nil {
		m.bytes[c.Handle][a.Copy.Server] = true
	}
}

func (m *model) serverGone() {
	g := &ServerGone{Server: quarry.ServerID(1 + m.rand.IntN(modelServers)), ForGood: m.rand.IntN(4) == 0, Max: 1 + m.rand.IntN(3)}
	for more := true; more; {
		r := m.want(0, g)
		g.From, more = r.Next, r.More
	}
	st := reading(m.kv)
	for _, h := range m.handles {
		c := st.chunk(h)
		if g.ForGood && (c == nil || c.Count(ReplicaMember) == 0) {
			delete(m.bytes[h], g.Server)
		}
	}
}

func (m *model) settle() {
	id := quarry.ServerID(1 + m.rand.IntN(modelServers))
	items, _ := Unsettled(m.kv, id, 1+m.rand.IntN(5))
	for i := range items {
		if items[i].Kind == quarry.ItemDrop {
			delete(m.bytes[items[i].Handle], id)
		}
	}
	m.want(0, &SettleItems{Server: id, Items: items})
}

func (m *model) collect() {
	m.want(0, &Collect{KeepMS: modelKeepMS, SoonMS: 100, Max: 1 + m.rand.IntN(5)})
}

// sessions keeps the model's session alive, and now and then ends it for another one.
func (m *model) sessions() {
	if m.rand.IntN(4) > 0 {
		m.want(0, &KeepSessions{Sessions: []quarry.SessionID{m.session}})
		return
	}
	m.want(0, &CloseSession{Session: m.session})
	m.session, m.seq, m.owned = m.want(0, &OpenSession{}).Session, 0, nil
}

// retry sends the last operation again: it must get its first answer and do nothing.
func (m *model) retry() {
	log := append(slices.Clone(m.older), m.log...)
	for i := len(log) - 1; i >= 0; i-- {
		c, err := DecodeCommand(log[i])
		if err != nil || c.Op.Session != m.session {
			continue
		}
		before := m.kv.Copy()
		key := resultKey(nil, c.Op.Session, uint16(c.Op.Sequence%WindowOps))
		stored, _ := before.Get(key)
		m.m.Apply(m.kv, log[i])
		if diff := difference(before, m.kv); diff != "" {
			m.t.Fatalf("a retry changed %s", diff)
		}
		if after, _ := m.kv.Get(key); !bytes.Equal(stored, after) {
			m.t.Fatal("a retry changed the operation's result")
		}
		return
	}
}

// restart has another machine go on with the state.
func (m *model) restart() { m.m = Machine{} }

// compare returns how the shard differs from the model.
func (m *model) compare() string {
	if wrong := m.compareTree(m.root); wrong != "" {
		return wrong
	}
	for _, n := range m.nodes {
		if _, err := Stat(m.kv, &quarry.StatRequest{Inode: n.inode}); n.gone != errors.Is(err, quarry.NotFound) {
			return fmt.Sprintf("%v: gone %v, stat says %v", n.inode, n.gone, err)
		}
	}
	st := reading(m.kv)
	for _, h := range m.handles {
		c := st.chunk(h)
		for id := range m.bytes[h] {
			if c == nil || c.Replica(id) == nil {
				return fmt.Sprintf("server %d has a replica of %v, which the record %+v does not list", id, h, c)
			}
		}
		if c == nil {
			continue
		}
		if c.Version < m.versions[h] {
			return fmt.Sprintf("the version of %v fell to %d", h, c.Version)
		}
		m.versions[h] = c.Version
		if length, ok := m.lengths[h]; ok && length != c.Length || c.LengthKnown && c.Length < c.Base {
			return fmt.Sprintf("the length of %v changed from %d to %d", h, length, c.Length)
		}
		if c.LengthKnown {
			m.lengths[h] = c.Length
		}
	}
	return ""
}

func (m *model) compareTree(n *node) string {
	if n.kind == quarry.KindFile {
		r, err := Locate(m.kv, &quarry.LocateRequest{File: n.inode, Max: quarry.PiecesMax})
		if err != nil {
			return err.Error()
		}
		equal := func(a, b quarry.Piece) bool {
			return a.Offset == b.Offset && a.Length == b.Length && a.Handle == b.Handle && a.Kind == b.Kind && bytes.Equal(a.Inline, b.Inline)
		}
		if !slices.EqualFunc(r.Pieces, n.pieces, equal) {
			return fmt.Sprintf("%v has pieces %+v, the model %+v", n.inode, r.Pieces, n.pieces)
		}
		return ""
	}
	r, err := List(m.kv, &quarry.ListRequest{Dir: n.inode, Max: 100}, nil)
	if err != nil {
		return err.Error()
	}
	if len(r.Entries) != len(n.children) {
		return fmt.Sprintf("%v has entries %v, the model %v", n.inode, r.Entries, n.children)
	}
	for _, e := range r.Entries {
		c := n.children[e.Name]
		if c == nil || c.inode != e.Attr.Inode || c.kind != e.Attr.Kind {
			return fmt.Sprintf("entry %q of %v is %+v, in the model %+v", e.Name, n.inode, e.Attr, c)
		}
		if wrong := m.compareTree(c); wrong != "" {
			return wrong
		}
	}
	return ""
}
