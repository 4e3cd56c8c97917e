package meta

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/quarryfs/quarry"
)

var (
	txSeeds = flag.Int("tx.seeds", 150, "how many random runs TestTransactions makes")
	txSeed  = flag.Uint64("tx.seed", 0, "make only the random run with this seed")
)

// TestTransactions has clients change one tree that several shards keep, while messages are
// late, lost and repeated and coordinators forget everything but their logs. With one client
// each outcome is compared with a model of the tree; in the end no shard may have anything left
// of a transaction, and all entries and inodes must agree.
func TestTransactions(t *testing.T) {
	first, last := uint64(1), uint64(*txSeeds)
	if *txSeed != 0 {
		first, last = *txSeed, *txSeed
	}
	for seed := first; seed <= last; seed++ {
		w := newTxWorld(t, seed, 1)
		w.run()
		if wrong := w.settled(); wrong != "" {
			t.Fatalf("%s\nrepeat: go test ./meta -run TestTransactions -tx.seed %d", wrong, seed)
		}
	}
}

// txWorld is a few shards, what is on its way between them, and their clients.
type txWorld struct {
	t       *testing.T
	seed    uint64
	rand    *rand.Rand
	shards  []*shard
	bag     []txMessage
	running map[TxID]*coordination
	order   TxID // holds the right to move a directory
	clients []*txClient
	root    *node
	nodes   []*node
	moves   []*moving // of slots, the last one perhaps under way
	moved   bool      // slots do move
}

// txMessage is a command on its way to a shard.
type txMessage struct {
	to    *shard
	body  Body
	reply func(*Result) // nil: nobody waits any more
}

// coordination is what a coordinator remembers of a transaction, besides the log.
type coordination struct {
	at     *shard
	x      Transaction
	parts  []Part // prepared, in their order
	sent   bool
	attr   quarry.Attr
	undone []Part // that the participants have yet to finish
	over   bool
}

// txClient does one operation after the other.
type txClient struct {
	w    *txWorld
	at   *shard // of the operation
	op   quarry.Op
	seqs map[quarry.SessionID]quarry.Sequence
	body Body // nil: none is under way
	want []quarry.Kind
	done func(*Result)
	wait TxID
}

func newTxWorld(t *testing.T, seed, kind uint64) *txWorld {
	w := &txWorld{t: t, seed: seed, rand: rand.New(rand.NewPCG(seed, kind)), running: map[TxID]*coordination{}}
	count := 2 + w.rand.IntN(3)
	for i := range count {
		s := &shard{t: t, kv: NewMemory(), time: 1000, wall: 1e18}
		first, last := i*quarry.Slots/count, (i+1)*quarry.Slots/count-1
		s.ok(&Init{Slots: []quarry.SlotRange{{First: quarry.Slot(first), Last: quarry.Slot(last)}}})
		s.session = s.ok(&OpenSession{Slot: quarry.Slot(first)}).Session
		w.shards = append(w.shards, s)
	}
	w.root = &node{kind: quarry.KindDir, inode: quarry.RootInode}
	w.nodes = []*node{w.root}
	for range 1 + w.rand.IntN(2)*2 {
		c := &txClient{w: w, seqs: map[quarry.SessionID]quarry.Sequence{}}
		w.clients = append(w.clients, c)
	}
	return w
}

func (w *txWorld) fatal(format string, args ...any) {
	w.t.Helper()
	test, flag := "TestTransactions", "tx.seed"
	if w.moved {
		test, flag = "TestMoves", "move.seed"
	}
	w.t.Fatalf(format+"\nrepeat: go test ./meta -run %s -%s %d", append(args, test, flag, w.seed)...)
}

// shardOf returns the shard that owns a slot; if none does, the one that the slot has left.
func (w *txWorld) shardOf(slot quarry.Slot) *shard {
	if !w.moved {
		return w.shards[int(slot)*len(w.shards)/quarry.Slots]
	}
	if s := w.owner(slot); s != nil {
		return s
	}
	return w.moves[len(w.moves)-1].from
}

func (w *txWorld) run() {
	for range 600 {
		if w.moved && w.rand.IntN(3) == 0 {
			w.move()
		}
		switch k := w.rand.IntN(20); {
		case k < 8:
			pick(w.rand, w.clients).step()
		case k < 16:
			w.coordinate()
		case k < 18:
			w.deliver()
		case k == 18:
			w.resolve(pick(w.rand, w.shards))
			s := pick(w.rand, w.shards)
			s.time += 20
			s.ok(&Collect{KeepMS: txKeepMS, Max: 1 + w.rand.IntN(3)})
		default:
			if w.rand.IntN(4) == 0 {
				w.failover(pick(w.rand, w.shards))
			}
		}
	}
}

// coordinate lets one transaction go one step further.
func (w *txWorld) coordinate() {
	var ids []TxID
	for id := range w.running {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	if c := w.running[pick(w.rand, ids)]; c != nil {
		c.step(w)
	}
}

func (c *coordination) step(w *txWorld) {
	prepares := c.x.Prepares()
	switch {
	case c.over || c.sent && w.rand.IntN(8) > 0:
	case c.undone != nil || c.x.Committed:
		c.finish(w)
	case len(c.parts) == 0 && c.x.Ordered() && w.order != c.x.ID:
		if w.order == 0 {
			w.order = c.x.ID
		} else if h := w.order; w.running[h] == nil {
			w.order = 0 // its coordinator does not know it, or will look after it
			if _, known, _ := TransactionOf(w.shardOf(h.Slot()).kv, h); known {
				w.order = h
			}
		}
	case len(c.parts) < len(prepares):
		if len(c.parts) == 0 && c.x.Ordered() {
			if err := w.climb(c.x.ToParent, c.x.Inode); err != nil {
				c.decide(w, false, err)
				return
			}
		}
		part := prepares[len(c.parts)]
		c.sent = true
		n := len(c.parts)
		w.send(part.Where(), &Prepare{Tx: c.x.ID, Part: part}, func(r *Result) {
			if c.over || c.x.Committed || len(c.parts) != n {
				return
			}
			if c.sent = false; errors.Is(r.Err, quarry.WrongShard) && w.moved {
				return // ask the other one
			}
			if r.Err != nil {
				if in := r.HeldUp(); in != nil {
					w.settle(*in)
				}
				c.decide(w, false, r.Err)
				return
			}
			if r.Attr.Inode != 0 && part.Kind != PartLink {
				c.attr = r.Attr
			}
			c.parts = append(c.parts, *r.Part)
		})
	default:
		c.decide(w, true, nil)
	}
}

func (c *coordination) decide(w *txWorld, commit bool, err error) {
	r := c.at.ok(&Decide{Tx: c.x.ID, Commit: commit, Parts: c.parts, Attr: c.attr, Err: err})
	if !commit {
		c.close(w)
		return
	}
	c.x, _, _ = TransactionOf(c.at.kv, c.x.ID)
	if r.Tx == 0 || !c.x.Committed {
		w.fatal("a committed transaction is %+v", c.x)
	}
	c.sent = false
}

// finish carries the parts out, one after the other.
func (c *coordination) finish(w *txWorld) {
	if c.undone == nil {
		c.undone = slices.Clone(c.x.Parts)
	}
	if len(c.undone) == 0 {
		if c.at.ok(&Forget{Tx: c.x.ID}); w.rand.IntN(2) == 0 {
			c.at.ok(&Forget{Tx: c.x.ID})
		}
		c.close(w)
		return
	}
	part := c.undone[0]
	c.sent = true
	w.send(part.Where(), &Finish{Tx: c.x.ID, Commit: true, Part: part}, func(r *Result) {
		if c.sent = false; errors.Is(r.Err, quarry.WrongShard) && w.moved {
			return
		}
		if r.Err != nil {
			w.fatal("a committed part is refused: %v", r.Err)
		}
		if c.sent = false; len(c.undone) > 0 && c.undone[0] == part {
			c.undone = c.undone[1:]
		}
	})
}

func (c *coordination) close(w *txWorld) {
	c.over = true
	delete(w.running, c.x.ID)
	if w.order == c.x.ID {
		w.order = 0
	}
}

// climb reports whether a directory is in the other one.
func (w *txWorld) climb(from, dir quarry.Inode) error {
	for range 1000 {
		next, err := Climb(w.shardOf(from.Slot()).kv, from, dir)
		switch {
		case err != nil:
			return err
		case next == dir:
			return errCycle
		case next == quarry.RootInode:
			return nil
		}
		from = next
	}
	w.fatal("directories stand in a circle")
	return nil
}

func (w *txWorld) send(to quarry.Slot, b Body, reply func(*Result)) {
	w.bag = append(w.bag, txMessage{w.shardOf(to), b, reply})
	if w.rand.IntN(3) > 0 {
		w.deliver()
	}
}

// deliver delivers one message; perhaps it comes again later, perhaps its answer is lost.
func (w *txWorld) deliver() {
	if len(w.bag) == 0 {
		return
	}
	i := w.rand.IntN(len(w.bag))
	m := w.bag[i]
	if len(w.bag) > 50 || w.rand.IntN(3) > 0 {
		w.bag = slices.Delete(w.bag, i, i+1)
	}
	if w.rand.IntN(10) == 0 {
		return // lost
	}
	r := m.to.do(m.body)
	if m.reply != nil && w.rand.IntN(8) > 0 {
		m.reply(r)
	}
}

// failover lets a shard's coordinator forget what is not in the log, and finish what is.
func (w *txWorld) failover(s *shard) {
	for id, c := range w.running {
		if c.at == s {
			c.over = true
			delete(w.running, id)
		}
	}
	for _, id := range Transactions(s.kv, 0, TransactionsMax) {
		x, ok, err := TransactionOf(s.kv, id)
		if !ok || err != nil {
			w.fatal("transaction %x is in the index and is not known: %v", uint64(id), err)
		}
		c := &coordination{at: s, x: x}
		w.running[id] = c
		if !x.Committed {
			c.decide(w, false, quarry.Unavailable)
		}
	}
}

// resolve has a shard ask what became of the intents it keeps.
func (w *txWorld) resolve(s *shard) {
	list, _ := Intents(s.kv, nil, 100)
	for _, in := range list {
		w.settle(in)
	}
}

func (w *txWorld) settle(in Intent) {
	x, known, err := TransactionOf(w.shardOf(in.Tx.Slot()).kv, in.Tx)
	switch f := in.Settle(&x, known); {
	case errors.Is(err, quarry.WrongShard) && w.moved:
	case err != nil:
		w.fatal("%v", err)
	case f != nil && in.Part.Kind != PartSource:
		if r := w.shardOf(in.Part.Where()).do(f); r.Err != nil && !(w.moved && errors.Is(r.Err, quarry.WrongShard)) {
			w.fatal("an intent cannot be settled: %v", r.Err)
		}
	}
}

// step begins an operation, or asks again for the outcome of the one under way.
func (c *txClient) step() {
	w := c.w
	if c.body == nil {
		c.begin()
	}
	if w.running[c.wait] != nil || w.moved && !c.find() {
		return
	}
	r := c.at.send(c.at.encode(c.op, c.body))
	switch {
	case errors.Is(r.Err, quarry.WrongShard) && w.moved:
		c.elsewhere(r.Err)
		return
	case r.HeldUp() != nil:
		w.settle(*r.Met)
		return
	case errors.Is(r.Err, quarry.Busy):
		return
	case r.Err == nil && r.Tx != 0:
		x, known, _ := TransactionOf(c.at.kv, r.Tx)
		if known && w.running[r.Tx] == nil {
			w.running[r.Tx] = &coordination{at: c.at, x: x}
		}
		if c.wait = r.Tx; !r.Decided {
			if !known {
				w.fatal("operation %+v waits for transaction %x, which is over", c.body, uint64(r.Tx))
			}
			return
		}
	}
	if len(w.clients) == 1 && !slices.Contains(c.want, quarry.KindOf(r.Err)) {
		w.fatal("%T %+v: %v, the model says %v", c.body, c.body, r.Err, c.want)
	}
	if again := c.at.send(c.at.encode(c.op, c.body)); quarry.KindOf(again.Err) != quarry.KindOf(r.Err) || again.Attr.Inode != r.Attr.Inode {
		w.fatal("%T %+v: %+v, and again %+v", c.body, c.body, r, again)
	}
	c.body = nil
	if r.Err == nil {
		c.done(r)
	}
}

func (c *txClient) begin() {
	w := c.w
	dir, name, to := pick(w.rand, w.nodes), pick(w.rand, []string{"a", "b", "c"}), pick(w.rand, w.nodes)
	switch k := w.rand.IntN(11); {
	case k < 4:
		c.make(dir, name)
	case k < 8:
		c.rename(dir, name, to, pick(w.rand, []string{"a", "b", "c"}))
	case k < 9:
		c.undelete(dir, name, pick(w.rand, w.nodes))
	default:
		c.remove(dir, name)
	}
	for _, n := range []*node{dir, to} {
		if n.gone && n.kind == quarry.KindFile { // a transaction that is given up may have it for a while
			c.want = append(c.want, quarry.NotDir)
		}
	}
	c.in(w.shardOf(dir.inode.Slot()))
}

// in gives the operation a place in a session at a shard.
func (c *txClient) in(at *shard) {
	w := c.w
	if c.at = at; w.moved && (at.session == 0 || w.owner(SessionSlot(at.session)) != at) {
		at.session = w.sessionAt(at)
	}
	c.seqs[at.session]++
	seq := c.seqs[at.session]
	if len(w.clients) > 1 {
		seq = seq*3 + quarry.Sequence(slices.Index(w.clients, c)) // they share the shards' sessions
	}
	c.op = quarry.Op{Session: c.at.session, Sequence: seq, Oldest: max(1, seq-min(seq-1, 500))}
}

func (w *txWorld) add(dir *node, name string, n *node) {
	if dir.children == nil {
		dir.children = map[string]*node{}
	}
	dir.children[name] = n
	if !slices.Contains(w.nodes, n) {
		w.nodes = append(w.nodes, n)
	}
}

func (c *txClient) make(dir *node, name string) {
	w := c.w
	slot := quarry.Slot(w.rand.IntN(quarry.Slots))
	kind := quarry.FileKind(1 + w.rand.IntN(2))
	c.body = &Make{Parent: dir.inode, Name: name, Kind: kind, Slot: slot}
	old := dir.children[name]
	c.want = reasons(dir.dirError() != 0, dir.dirError(), old != nil, quarry.Exists)
	c.done = func(r *Result) {
		w.add(dir, name, &node{kind: kind, inode: r.Attr.Inode})
	}
}

func (c *txClient) rename(from *node, name string, to *node, toName string) {
	w := c.w
	replace := w.rand.IntN(2) == 0
	c.body = &Rename{Parent: from.inode, Name: name, ToParent: to.inode, ToName: toName, Replace: replace}
	n, old := from.children[name], to.children[toName]
	c.want = reasons(from.dirError() != 0, from.dirError(), to.dirError() != 0, to.dirError(), n == nil, quarry.NotFound)
	if n != nil && old != n && c.want[0] == 0 {
		c.want = reasons(
			old != nil && !replace, quarry.Exists,
			old != nil && n.kind == quarry.KindFile && old.kind == quarry.KindDir, quarry.IsDir,
			old != nil && n.kind == quarry.KindDir && old.kind == quarry.KindFile, quarry.NotDir,
			old != nil && old.kind == quarry.KindDir && n.kind == quarry.KindDir, quarry.Exists,
			n.holds(to), quarry.Invalid,
		)
	}
	c.done = func(*Result) {
		if old != nil && old != n {
			old.gone = true
		}
		delete(from.children, name)
		w.add(to, toName, n)
	}
	if len(w.clients) > 1 {
		c.done = func(*Result) {}
	}
}

func (c *txClient) remove(dir *node, name string) {
	n := dir.children[name]
	asDir := c.w.rand.IntN(2) == 0
	c.body = &Remove{Parent: dir.inode, Name: name, Dir: asDir}
	c.want = reasons(dir.dirError() != 0, dir.dirError(), n == nil, quarry.NotFound)
	if n != nil && c.want[0] == 0 {
		c.want = reasons(
			n.kind == quarry.KindDir && !asDir, quarry.IsDir, n.kind == quarry.KindFile && asDir, quarry.NotDir,
			len(n.children) > 0, quarry.NotEmpty)
	}
	c.done = func(*Result) {
		n.gone = true
		delete(dir.children, name)
	}
	if len(c.w.clients) > 1 {
		c.done = func(*Result) {}
	}
}

// settled lets everything come to its end, and returns what is wrong then.
func (w *txWorld) settled() string {
	for i := 0; i < 10_000; i++ {
		busy := w.moved && w.endMoves()
		for _, c := range w.clients {
			if c.body != nil { // one after the other: who always meet give up for each other for ever
				busy = true
				c.step()
				break
			}
		}
		for _, s := range w.shards {
			w.resolve(s)
		}
		w.coordinate()
		w.deliver()
		if !busy && len(w.running) == 0 && len(w.bag) == 0 {
			break
		}
		if i == 3000 {
			w.bag = nil
			for _, s := range w.shards {
				w.failover(s)
			}
		}
	}
	for _, s := range w.shards {
		w.resolve(s)
	}
	if wrong := checkAll(w.shards); wrong != "" {
		return wrong
	}
	if len(w.clients) == 1 {
		return w.compare(w.root)
	}
	return ""
}

// compare returns how the shards differ from the model.
func (w *txWorld) compare(n *node) string {
	st := reading(w.shardOf(n.inode.Slot()).kv)
	if st.inode(n.inode) == nil {
		return fmt.Sprintf("%v is gone", n.inode)
	}
	for name, c := range n.children {
		if e, ok := st.entry(n.inode, name); !ok || e.Inode != c.inode || e.Kind != c.kind {
			return fmt.Sprintf("entry %q of %v is %+v, in the model %+v", name, n.inode, e, c)
		}
		if wrong := w.compare(c); wrong != "" {
			return wrong
		}
	}
	return ""
}

// checkAll returns what is wrong between shards that together own every slot, when no
// transaction is under way.
func checkAll(shards []*shard) string {
	inodes := map[quarry.Inode]*inodeRecord{}
	named := map[quarry.Inode]bool{quarry.RootInode: true}
	var dumps []*dump
	for _, s := range shards {
		d := readAll(s.kv)
		dumps = append(dumps, d)
		if slots := d.foreign.slots(); len(slots) > 0 {
			return fmt.Sprintf("left over: records of slots %v, which are not owned", slots)
		}
		if len(d.txs) > 0 || len(d.intents) > 0 {
			return fmt.Sprintf("left over: transactions %+v, intents %+v", d.txs, d.intents)
		}
		for id, i := range d.inodes {
			inodes[id] = i
		}
	}
	for _, d := range dumps {
		for dir, names := range d.entries {
			for name, e := range names {
				to := inodes[e.Inode]
				switch {
				case to == nil || to.Links != 1 || to.Kind != e.Kind || named[e.Inode]:
					return fmt.Sprintf("entry %q of %v leads to %v: %+v, named twice: %v", name, dir, e.Inode, to, named[e.Inode])
				case to.Parent != dir || to.Kind == quarry.KindDir && to.Name != name:
					return fmt.Sprintf("entry %q of %v leads to an inode of %v, %q", name, dir, to.Parent, to.Name)
				}
				named[e.Inode] = true
			}
		}
	}
	for id, i := range inodes {
		if i.Links == 0 {
			continue // it is in the trash, and its directory may be gone
		}
		if !named[id] {
			return fmt.Sprintf("no entry leads to %v: %+v", id, i)
		}
		at := id
		for depth := 0; at != quarry.RootInode; depth++ {
			if depth > len(inodes) || inodes[at] == nil {
				return fmt.Sprintf("%v is in a circle, or not below the root", id)
			}
			at = inodes[at].Parent
		}
	}
	return ""
}
