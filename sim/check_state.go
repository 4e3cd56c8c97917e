package sim

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// The states of all masters are equal when they have applied the same entries: what one says
// of a name or a chunk, any other would say in its place.

// compareStates compares what the masters' stores hold at this instant. It reports false if
// they have not applied the same entries, so that nothing can be said.
func (c *Cluster) compareStates() (compared bool, err error) {
	var stores []*pebble.DB
	defer func() {
		for _, db := range stores {
			_ = db.Close() // copies, of which nothing was changed
		}
	}()
	for _, h := range c.Masters {
		h.mu.Lock()
		state := h.state.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: c.w.chance("look", uint64(h.number))})
		h.mu.Unlock()
		db, err := pebble.Open(filepath.Join("/", "state"), &pebble.Options{FS: state, ReadOnly: true, Logger: quiet{}})
		if err != nil {
			return false, fmt.Errorf("the state of %s: %w", h.name, err)
		}
		stores = append(stores, db)
	}
	first, err := pairs(stores[0])
	if err != nil {
		return false, err
	}
	for i, db := range stores[1:] {
		other, err := pairs(db)
		if err != nil {
			return false, err
		}
		switch where := difference(first, other); {
		case where == nil:
		case applied(where):
			return false, nil
		default:
			return true, fmt.Errorf("I0 masters agree: the states of m1 and m%d differ at key %s", i+2, hex.EncodeToString(where))
		}
	}
	return true, nil
}

type pair struct{ key, value []byte }

// pairs returns all that a store holds, in the order of the keys.
func pairs(db *pebble.DB) (list []pair, err error) {
	it, err := db.NewIter(nil)
	if err != nil {
		return nil, err
	}
	for ok := it.First(); ok; ok = it.Next() {
		list = append(list, pair{bytes.Clone(it.Key()), bytes.Clone(it.Value())})
	}
	return list, it.Close()
}

// applied reports whether a key is that of a group's applied index (see raft/store.go). It is
// the first of its group, so states that have applied different entries differ there first.
func applied(key []byte) bool { return len(key) == 10 && key[9] == 1 }

// difference returns the first key at which two states differ; nil if they do not.
func difference(a, b []pair) []byte {
	for i := range a {
		if i >= len(b) || !bytes.Equal(a[i].key, b[i].key) || !bytes.Equal(a[i].value, b[i].value) {
			return a[i].key
		}
	}
	if len(b) > len(a) {
		return b[len(a)].key
	}
	return nil
}

// quiet is Pebble's logger for copies that are only looked at.
type quiet struct{}

func (quiet) Infof(string, ...any)              {}
func (quiet) Errorf(string, ...any)             {}
func (quiet) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
