package meta

import (
	"fmt"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta/part"
	"github.com/quarryfs/quarry/wire"
)

// TxID names a transaction: the slot of the directory in which it began, whose shard
// coordinates it, and a number that is used once.
type TxID uint64

// Slot returns the slot whose shard coordinates the transaction.
func (id TxID) Slot() quarry.Slot { return quarry.Inode(id).Slot() }

// TransactionsMax is the most transactions that one shard coordinates at a time; a further one
// is Busy.
const TransactionsMax = 4096

// partsMax bounds the parts of a transaction.
const partsMax = 4

// Transaction is what a coordinator's shard keeps of a change that concerns several shards,
// from the command that begins it until every part has been carried out. One that the shard
// does not know was given up, or is over.
type Transaction struct {
	ID               TxID
	Verb             Kind // Make, Link, Rename, Remove or Undelete
	Committed        bool // it will be carried out; otherwise it may still be given up
	Op               quarry.Op
	Parent, ToParent quarry.Inode
	Name, ToName     string
	Replace          bool
	Inode            quarry.Inode // what is moved or removed
	Kind             quarry.FileKind
	Mode, UID, GID   uint32      // of a directory that is made
	Slot             quarry.Slot // of the same
	Parts            []Part      // if Committed: those to be carried out
	Path             string      // of ToName, for a file that is replaced
}

func transactionFields(w *wire.Walk, x *Transaction) {
	wire.Uint(w, 1, &x.ID)
	wire.Uint(w, 2, &x.Verb)
	wire.Bool(w, 3, &x.Committed)
	wire.Uint(w, 4, &x.Op.Session)
	wire.Uint(w, 5, &x.Op.Sequence)
	wire.Uint(w, 6, &x.Op.Oldest)
	wire.Uint(w, 7, &x.Parent)
	wire.Uint(w, 8, &x.ToParent)
	wire.String(w, 9, &x.Name, quarry.NameBytesMax)
	wire.String(w, 10, &x.ToName, quarry.NameBytesMax)
	wire.Bool(w, 11, &x.Replace)
	wire.Uint(w, 12, &x.Inode)
	wire.Uint(w, 13, &x.Kind)
	wire.Uint(w, 14, &x.Mode)
	wire.Uint(w, 15, &x.Slot)
	wire.List(w, 16, &x.Parts, partsMax, part.Fields)
	wire.String(w, 17, &x.Path, quarry.PathBytesMax)
	wire.Uint(w, 18, &x.UID)
	wire.Uint(w, 19, &x.GID)
}

// Ordered reports whether the transaction gives a directory another parent: such moves are
// made one at a time in the whole cluster, so that none of them can close a circle.
func (x *Transaction) Ordered() bool {
	return x.Verb == KindRename && x.Kind == quarry.KindDir && x.Parent != x.ToParent
}

// Prepares returns the parts that must be prepared before the transaction can be committed.
func (x *Transaction) Prepares() []Part {
	switch x.Verb {
	case KindMake:
		return []Part{{Kind: PartNew, Name: x.Name, Target: x.Parent, Mode: x.Mode, UID: x.UID, GID: x.GID, Slot: x.Slot}}
	case KindRemove:
		return []Part{{Kind: PartFreeze, Inode: x.Inode}}
	case KindUndelete:
		return []Part{{Kind: PartRestore, Inode: x.Inode, Target: x.Parent}}
	case KindRename:
		return []Part{
			{Kind: PartMove, Inode: x.Inode, Name: x.ToName, Target: x.ToParent},
			{Kind: PartLink, Inode: x.ToParent, Name: x.ToName, Target: x.Inode, FileKind: x.Kind, Replace: x.Replace},
		}
	}
	return nil
}

// source is the entry that the transaction makes or removes in the coordinator's shard, and
// that nobody else may touch until it is decided.
func (x *Transaction) source() Intent {
	return Intent{Tx: x.ID, Part: Part{Kind: PartSource, Inode: x.Parent, Name: x.Name}}
}

// begin records a transaction that the present operation needs, and takes hold of its entry.
func (t *tx) begin(x *Transaction, r *Result) error {
	if err := t.record(x, r); err != nil {
		return err
	}
	t.putIntent(x.source())
	return nil
}

// deliver records a transaction that is decided already: what it has to do elsewhere cannot be
// refused there. The result is final.
func (t *tx) deliver(x *Transaction, r *Result) error {
	x.Committed = true
	if err := t.record(x, r); err != nil {
		return err
	}
	r.Decided = true
	return nil
}

func (t *tx) record(x *Transaction, r *Result) error {
	h := t.header
	switch {
	case h.Counters.Transactions >= TransactionsMax:
		return refuse(quarry.Busy, "", "%d changes across shards are under way", TransactionsMax)
	case h.LastTx >= quarry.NumberMax:
		return refuse(quarry.NoSpace, "", "all numbers of transactions are used")
	}
	if err := t.closed(x.Parent.Slot()); err != nil {
		return err
	}
	h.LastTx++
	h.Counters.Transactions++
	x.ID, x.Op = TxID(quarry.MakeInode(x.Parent.Slot(), h.LastTx)), t.op
	t.putTransaction(x)
	t.set(coordinatedKey(t.key[:0], x.ID))
	r.Tx = x.ID
	return nil
}

func (t *tx) putTransaction(x *Transaction) {
	put(t, transactionKey(t.key[:0], x.ID), x, transactionFields)
}

// forget removes the record of a transaction.
func (t *tx) forget(id TxID) {
	t.delete(transactionKey(t.key[:0], id))
	t.delete(coordinatedKey(t.key[:0], id))
	t.header.Counters.Transactions--
}

func (s *state) transaction(id TxID) (x Transaction, ok bool) {
	ok = s.header.owns(id.Slot()) && load(s, transactionKey(s.key[:0], id), &x, transactionFields)
	return x, ok
}

// Decide commits a transaction whose parts are all prepared, or gives it up. What it changes in
// the coordinator's shard, and the result of its operation, are one step with that. A
// transaction that is committed already is a success. NotFound: it is not known (any more).
// Exists: it is to be given up and is committed. Result: Attr; Tx, if parts are to be carried
// out.
type Decide struct {
	Tx     TxID
	Commit bool
	Parts  []Part      // as they were prepared
	Attr   quarry.Attr // what the operation returns
	Err    error       // why it is given up; one that invites a retry is not kept
}

func (*Decide) kind() Kind { return KindDecide }

func (c *Decide) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.Tx)
	wire.Bool(w, 11, &c.Commit)
	wire.List(w, 12, &c.Parts, partsMax, part.Fields)
	wire.Message(w, 13, &c.Attr, wire.AttrFields)
	wire.Error(w, 14, &c.Err)
}

func (c *Decide) apply(t *tx, r *Result) error {
	if err := t.checkSlot(c.Tx.Slot()); err != nil {
		return err
	}
	x, ok := t.transaction(c.Tx)
	switch {
	case !ok:
		return refuse(quarry.NotFound, "", "transaction %x is not known (any more)", uint64(c.Tx))
	case x.Committed && !c.Commit:
		return refuse(quarry.Exists, "", "transaction %x is committed", uint64(c.Tx))
	case x.Committed:
		r.Attr, r.Tx = c.Attr, x.ID
		return nil
	case !c.Commit:
		t.dropIntent(x.source())
		t.forget(c.Tx)
		t.settle(&x, &Result{Err: c.Err})
		return nil
	}
	if err := c.check(t, &x); err != nil {
		return err
	}
	c.carryOut(t, &x)
	r.Attr = c.Attr
	if len(x.Parts) > 0 {
		r.Tx = x.ID
	}
	t.settle(&x, &Result{Attr: c.Attr})
	return nil
}

// check returns what is wrong with the parts, if so.
func (c *Decide) check(t *tx, x *Transaction) error {
	want := x.Prepares()
	if len(c.Parts) != len(want) {
		return refuse(quarry.Invalid, "", "%d parts are prepared, %d are needed", len(c.Parts), len(want))
	}
	for i := range want {
		p := c.Parts[i]
		if p.Kind != want[i].Kind || p.Ticket == 0 || p.Inode == 0 || p.Kind != PartNew && p.Inode != want[i].Inode {
			return refuse(quarry.Invalid, "", "part %d is %+v", i, p)
		}
	}
	if dir := t.inode(x.Parent); dir == nil || dir.Kind != quarry.KindDir {
		panic(fmt.Sprintf("meta: the state is broken: directory %v is in a transaction and is gone", x.Parent))
	}
	return nil
}

// carryOut does what the transaction does in this shard, and notes what is to be done elsewhere.
func (c *Decide) carryOut(t *tx, x *Transaction) {
	dir := t.inode(x.Parent)
	t.dropIntent(x.source())
	if x.Verb == KindMake || x.Verb == KindUndelete {
		t.putEntry(x.Parent, x.Name, entryRecord{c.Parts[0].Inode, x.Kind})
		t.changed(x.Parent, dir, +1)
	} else {
		t.delete(entryKey(t.key[:0], x.Parent, x.Name))
		t.changed(x.Parent, dir, -1)
	}
	x.Committed, x.Parts = true, c.Parts
	for _, p := range c.Parts {
		if p.Old != 0 {
			x.Parts = append(x.Parts, Part{Kind: PartUnlink, Inode: p.Old, Path: x.Path})
		}
	}
	x.Path = ""
	t.putTransaction(x)
}

// settle gives the transaction's operation its result, if anybody may still ask for it. One that
// invites a retry is not kept: the operation may be done after all.
func (t *tx) settle(x *Transaction, r *Result) {
	if _, err := t.liveSession(x.Op.Session); err != nil {
		return
	}
	place := uint16(x.Op.Sequence % WindowOps)
	var rec resultRecord
	if !load(&t.state, resultKey(t.key[:0], x.Op.Session, place), &rec, resultRecordFields) || rec.Sequence != x.Op.Sequence {
		return
	}
	if !retryable(r.Err) {
		t.setResult(&x.Op, place, r.Append(nil))
		return
	}
	if x.Op.Sequence <= WindowOps {
		t.delete(resultKey(t.key[:0], x.Op.Session, place))
		return
	}
	// The record of the operation before in this place is gone. It must not be done again.
	before := quarry.Op{Session: x.Op.Session, Sequence: x.Op.Sequence - WindowOps}
	forgotten := Result{Err: refuse(quarry.Unknown, "", "operation %d is so old that its result is forgotten", before.Sequence)}
	t.setResult(&before, place, forgotten.Append(nil))
}

// Forget ends a committed transaction of which every part is carried out. One that is not known
// is a success. Invalid: it is not committed.
type Forget struct{ Tx TxID }

func (*Forget) kind() Kind { return KindForget }

func (c *Forget) fields(w *wire.Walk) { wire.Uint(w, 10, &c.Tx) }

func (c *Forget) apply(t *tx, _ *Result) error {
	if err := t.checkSlot(c.Tx.Slot()); err != nil {
		return err
	}
	switch x, ok := t.transaction(c.Tx); {
	case !ok:
		return nil
	case !x.Committed:
		return refuse(quarry.Invalid, "", "transaction %x is not committed", uint64(c.Tx))
	}
	t.forget(c.Tx)
	return nil
}

// TransactionOf returns a transaction that the shard coordinates; false if it does not know it
// (any more). WrongShard.
func TransactionOf(v View, id TxID) (Transaction, bool, error) {
	s := reading(v)
	if !s.header.owns(id.Slot()) {
		return Transaction{}, false, named("transaction", "", wrongShard(id.Slot()))
	}
	x, ok := s.transaction(id)
	return x, ok, nil
}

// Transactions returns at most n transactions that the shard coordinates, behind the one past.
func Transactions(v View, past TxID, n int) (list []TxID) {
	return reading(v).transactions(past, n)
}

func (s *state) transactions(past TxID, n int) (list []TxID) {
	s.index(table(nil, shardSlot, tableCoordinated, uint64(past)+1), after(table(nil, shardSlot, tableCoordinated)), func(key, _ []byte) bool {
		if len(list) == n {
			return false
		}
		list = append(list, TxID(lastNumber(key)))
		return true
	})
	return list
}

// Climb goes up from a directory as far as the shard knows: it returns the root, the directory
// dir if that is met, or a directory that lives on another shard, from where to go on.
// NotFound: the directory is gone.
func Climb(v View, from, dir quarry.Inode) (quarry.Inode, error) {
	s := reading(v)
	h := s.header
	if !h.owns(from.Slot()) {
		return 0, named("climb", "", wrongShard(from.Slot()))
	}
	for range depthMax {
		if from == dir || from == quarry.RootInode || !h.owns(from.Slot()) {
			return from, nil
		}
		i, err := s.dir(from)
		if err != nil {
			return 0, named("climb", "", err)
		}
		from = i.Parent
	}
	return 0, quarry.Errorf("climb", quarry.Invalid, "", "the directory is more than %d levels deep", depthMax)
}

// Append appends the transaction's encoding to dst.
func (x *Transaction) Append(dst []byte) []byte { return wire.Marshal(dst, x, transactionFields) }

// DecodeTransaction reads an encoded transaction.
func DecodeTransaction(src []byte) (x Transaction, err error) {
	err = wire.Unmarshal(src, &x, transactionFields)
	return x, err
}
