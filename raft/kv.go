package raft

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

const (
	// KeyBytesMax is the longest key of a state machine.
	KeyBytesMax = 8 << 10
	// ValueBytesMax is the largest value of a state machine.
	ValueBytesMax = 8 << 20
)

// StateMachine is what a group replicates: each member applies the same commands in the same
// order, so the state is the same everywhere.
type StateMachine interface {
	// Apply applies one committed command and returns the result that its proposer gets. It
	// must be a pure function of kv, index and command: no clock, no random number, no other
	// memory that matters. The index grows with every command; it is the command's and no
	// other's. One goroutine of each group calls Apply. Command and result belong to the
	// host afterwards; kv is valid only during the call.
	//
	// Apply has no error: a command that cannot be done returns a result that says so. A
	// panic stops the node; with a *quarry.Error that is the reason as Err tells it.
	Apply(kv KV, index uint64, command []byte) (result []byte)
}

// Installer is a StateMachine that also keeps something in memory, a cache for instance.
type Installer interface {
	StateMachine
	// Installed is called, by the goroutine that calls Apply, when the whole state was
	// replaced by the leader's, with the state as it is then.
	Installed(kv Reader)
}

// Reader reads an ordered key-value state. Keys are relative to the group. If the disk
// fails, its methods do not return: the host stops, and View and Apply are left.
type Reader interface {
	// Get returns the key's value, which must not be changed, and false if there is none.
	Get(key []byte) (value []byte, ok bool)
	// Scan calls fn with the keys from lo (inclusive) to hi (exclusive) in ascending order
	// until fn returns false; nil means no bound. Key and value are valid only during fn.
	Scan(lo, hi []byte, fn func(key, value []byte) bool)
}

// KV is the state as a command sees and changes it. Reads see the writes made before them,
// by this command as well; a Scan under way does not see writes made by its own fn.
type KV interface {
	Reader
	// Set sets the key's value; both are copied. They are at most KeyBytesMax and
	// ValueBytesMax long.
	Set(key, value []byte)
	// Delete removes the key, if it is there.
	Delete(key []byte)
	// DeleteRange removes the keys from lo (inclusive) to hi (exclusive); nil means no bound.
	DeleteRange(lo, hi []byte)
}

// storeFailure is the panic with which a failed read or write of the state leaves the code
// of a state machine or of a View.
type storeFailure struct{ err error }

// must leaves by a storeFailure if err is not nil.
func must(err error) {
	if err != nil {
		panic(storeFailure{err})
	}
}

// source is a snapshot, a batch, or the store itself.
type source = pebble.Reader

// reader is the state of one group in a source.
type reader struct {
	src source
	pre []byte // of the group's data keys, with room behind it
}

func newReader(src source, id groupID) reader {
	pre := make([]byte, dataPrefixBytes, dataPrefixBytes+64)
	putDataPrefix(pre, id)
	return reader{src: src, pre: pre}
}

// key returns the store's key for a key of the state machine, valid until the next call.
func (r *reader) key(key []byte) []byte {
	if len(key) > KeyBytesMax {
		panic(fmt.Sprintf("raft: a key has %d bytes, the limit is %d", len(key), KeyBytesMax))
	}
	r.pre = append(r.pre[:dataPrefixBytes], key...)
	return r.pre
}

// Get implements Reader.
func (r *reader) Get(key []byte) ([]byte, bool) {
	v, closer, err := r.src.Get(r.key(key))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false
	}
	must(err)
	value := append(make([]byte, 0, len(v)), v...)
	must(closer.Close())
	return value, true
}

// bounds returns the store's keys for the range from lo to hi; both are copies.
func (r *reader) bounds(lo, hi []byte) (from, to []byte) {
	from = append([]byte(nil), r.key(lo)...)
	if hi != nil {
		return from, append([]byte(nil), r.key(hi)...)
	}
	to = append([]byte(nil), r.pre[:dataPrefixBytes]...)
	to[dataPrefixBytes-1]++ // the kind byte is the last of the prefix
	return from, to
}

// Scan implements Reader.
func (r *reader) Scan(lo, hi []byte, fn func(key, value []byte) bool) {
	from, to := r.bounds(lo, hi)
	it, err := r.src.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	must(err)
	defer func() { _ = it.Close() }() // the error that matters is that of Error below
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		must(err)
		if !fn(it.Key()[dataPrefixBytes:], v) {
			break
		}
	}
	must(it.Error())
}

// Set implements KV.
func (w *writer) Set(key, value []byte) {
	if len(value) > ValueBytesMax {
		panic(fmt.Sprintf("raft: a value has %d bytes, the limit is %d", len(value), ValueBytesMax))
	}
	must(w.batch.Set(w.key(key), value, nil))
	w.touch(key, touch{value: bytes.Clone(value)})
}

// Delete implements KV.
func (w *writer) Delete(key []byte) {
	must(w.batch.Delete(w.key(key), nil))
	w.touch(key, touch{gone: true})
}

// DeleteRange implements KV.
func (w *writer) DeleteRange(lo, hi []byte) {
	from, to := w.bounds(lo, hi)
	if bytes.Compare(from, to) >= 0 {
		return // Pebble takes it for granted that there is a range
	}
	must(w.batch.DeleteRange(from, to, nil))
	w.deleteTouched(lo, hi)
}
