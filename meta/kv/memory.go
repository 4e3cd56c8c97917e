package kv

import (
	"bytes"

	"github.com/tidwall/btree"
)

// Memory is a KV that lives in memory: for tests and simulations. Not safe for concurrent
// use.
type Memory struct {
	tree *btree.BTreeG[memoryItem]
}

type memoryItem struct{ key, value []byte }

// NewMemory returns an empty state.
func NewMemory() *Memory {
	less := func(a, b memoryItem) bool { return bytes.Compare(a.key, b.key) < 0 }
	return &Memory{tree: btree.NewBTreeGOptions(less, btree.Options{NoLocks: true})}
}

// Copy returns a state with the same contents that changes by itself.
func (m *Memory) Copy() *Memory { return &Memory{tree: m.tree.Copy()} }

// Len returns the number of keys.
func (m *Memory) Len() int { return m.tree.Len() }

// Get implements View.
func (m *Memory) Get(key []byte) ([]byte, bool) {
	item, ok := m.tree.Get(memoryItem{key: key})
	return item.value, ok
}

// Scan implements View.
func (m *Memory) Scan(lo, hi []byte, fn func(key, value []byte) bool) {
	m.tree.Ascend(memoryItem{key: lo}, func(item memoryItem) bool {
		return (hi == nil || bytes.Compare(item.key, hi) < 0) && fn(item.key, item.value)
	})
}

// Set implements KV.
func (m *Memory) Set(key, value []byte) {
	m.tree.Set(memoryItem{key: bytes.Clone(key), value: bytes.Clone(value)})
}

// Delete implements KV.
func (m *Memory) Delete(key []byte) { m.tree.Delete(memoryItem{key: key}) }

// DeleteRange implements KV.
func (m *Memory) DeleteRange(lo, hi []byte) {
	var keys [][]byte
	m.Scan(lo, hi, func(key, _ []byte) bool {
		keys = append(keys, key)
		return true
	})
	for _, key := range keys {
		m.Delete(key)
	}
}
