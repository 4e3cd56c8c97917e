package meta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta/part"
	"github.com/quarryfs/quarry/wire"
)

// intentsMax is the most intents that a shard keeps.
const intentsMax = 4 * TransactionsMax

// Part is what a transaction does in one slot.
type Part = part.Part

// The kinds of parts; see package part.
const (
	PartLink    = part.Link
	PartMove    = part.Move
	PartNew     = part.New
	PartFreeze  = part.Freeze
	PartUnlink  = part.Unlink
	PartSource  = part.Source
	PartRestore = part.Restore
)

// Intent is what a transaction has left in a slot that it will change, until its coordinator
// says what has become of it. Nobody else changes what the intent holds.
type Intent struct {
	Tx   TxID
	Part Part
}

func intentFields(w *wire.Walk, in *Intent) {
	wire.Uint(w, 1, &in.Tx)
	wire.Message(w, 2, &in.Part, part.Fields)
}

func (t *tx) putIntent(in Intent) {
	put(t, intentKey(t.key[:0], in.Part.Inode, in.Part.Entry()), &in, intentFields)
	t.set(heldKey(t.key[:0], in.Tx, in.Part.Inode, in.Part.Entry()))
	t.header.Counters.Intents++
}

func (t *tx) dropIntent(in Intent) {
	t.delete(intentKey(t.key[:0], in.Part.Inode, in.Part.Entry()))
	t.delete(heldKey(t.key[:0], in.Tx, in.Part.Inode, in.Part.Entry()))
	t.header.Counters.Intents--
}

// intent returns the intent where a part is to be carried out.
func (s *state) intent(p *Part) (in Intent, ok bool) {
	ok = s.header.owns(p.Inode.Slot()) && load(s, intentKey(s.key[:0], p.Inode, p.Entry()), &in, intentFields)
	return in, ok
}

// intentsOf returns what a transaction holds in this shard.
func (s *state) intentsOf(id TxID) (list []Intent) {
	for _, key := range s.held(table(nil, shardSlot, tableHeld, uint64(id)), nil, partsMax+1) {
		list = append(list, s.intentAt(key))
	}
	return list
}

// held returns at most n keys of the index of intents, from one on.
func (s *state) held(prefix, from []byte, n int) (keys [][]byte) {
	if from == nil {
		from = prefix
	}
	s.index(from, after(prefix), func(key, _ []byte) bool {
		if len(keys) == n {
			return false
		}
		keys = append(keys, append([]byte(nil), key...))
		return true
	})
	return keys
}

// intentAt returns the intent that an entry of the index names.
func (s *state) intentAt(key []byte) (in Intent) {
	inode, name := quarry.Inode(binary.BigEndian.Uint64(key[11:])), string(key[19:])
	if !load(s, intentKey(s.key[:0], inode, name), &in, intentFields) {
		panic(fmt.Sprintf("meta: the state is broken: intent %x is in the index and has no record", key))
	}
	return in
}

// free returns a Busy error, and the intent in the result, if there is one where a part is to
// be carried out.
func (t *tx) free(p *Part, r *Result) error {
	if t.header.Counters.Intents == 0 {
		return nil
	}
	if in, ok := t.intent(p); ok {
		return met(in, r)
	}
	return nil
}

// open returns a Busy error if a directory may be about to be removed, or has yet to be linked.
func (t *tx) open(dir quarry.Inode, r *Result) error {
	if t.header.Counters.Intents == 0 {
		return nil
	}
	in, ok := t.intent(&Part{Kind: PartFreeze, Inode: dir})
	if ok && (in.Part.Kind == PartFreeze && !off(FrozenTakesEntries) || in.Part.Kind == PartNew) {
		return met(in, r)
	}
	return nil
}

// untouched returns a Busy error if there is an intent on a directory or on an entry of it.
func (t *tx) untouched(dir quarry.Inode, r *Result) error {
	if t.header.Counters.Intents == 0 {
		return nil
	}
	var found *Intent
	t.scan(intentKey(nil, dir, ""), nil, func(key, value []byte) bool {
		found = new(Intent)
		decode(key, value, found, intentFields)
		return false
	})
	if found != nil {
		return met(*found, r)
	}
	return nil
}

func met(in Intent, r *Result) error {
	r.Met = &in
	return refuse(quarry.Busy, strconv.Quote(in.Part.Name), "transaction %x has it in hand", uint64(in.Tx))
}

// HeldUp returns the intent because of which a command was refused, or nil.
func (r *Result) HeldUp() *Intent {
	if r.Met != nil && errors.Is(r.Err, quarry.Busy) {
		return r.Met
	}
	return nil
}

// Intents returns at most n of the intents that transactions have left in this shard, but for
// the coordinators' own, and the key to go on behind; nil from, and nil at the end.
func Intents(v View, from []byte, n int) (list []Intent, next []byte) {
	s := reading(v)
	if from != nil {
		from = append(append([]byte(nil), from...), 0)
	}
	keys := s.held(table(nil, shardSlot, tableHeld), from, n)
	for _, key := range keys {
		if in := s.intentAt(key); in.Part.Kind != PartSource {
			list = append(list, in)
		}
	}
	if len(keys) == n {
		next = keys[n-1]
	}
	return list, next
}

// mayAppear adds the intent to put an entry into a directory, if there is one: a reader who
// finds it must ask the coordinator before it says what the entry is.
func (s *state) mayAppear(dir quarry.Inode, name string, met *[]Intent) {
	if met == nil || s.header.Counters.Intents == 0 {
		return
	}
	if in, ok := s.intent(&Part{Kind: PartLink, Inode: dir, Name: name}); ok && in.Part.Kind == PartLink {
		*met = append(*met, in)
	}
}

// allMayAppear is mayAppear for the names of a directory from lo to hi; "" is no bound.
func (s *state) allMayAppear(dir quarry.Inode, lo, hi string, met *[]Intent) {
	if met == nil || s.header.Counters.Intents == 0 {
		return
	}
	s.scan(intentKey(nil, dir, ""), intentKey(nil, dir, lo), func(key, value []byte) bool {
		var in Intent
		decode(key, value, &in, intentFields)
		if hi != "" && in.Part.Entry() > hi {
			return false
		}
		if in.Part.Kind == PartLink {
			*met = append(*met, in)
		}
		return true
	})
}

// Settle returns the command that ends an intent, as its coordinator's shard says what became
// of the transaction (see [TransactionOf]); nil if that is not decided yet.
func (in Intent) Settle(x *Transaction, known bool) *Finish {
	if known && !x.Committed {
		return nil
	}
	f := &Finish{Tx: in.Tx, Part: in.Part}
	for i := range x.Parts {
		p := &x.Parts[i]
		if known && p.Kind == in.Part.Kind && p.Inode == in.Part.Inode && p.Ticket == in.Part.Ticket {
			f.Commit = true
		}
	}
	return f
}
