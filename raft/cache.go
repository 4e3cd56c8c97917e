package raft

import (
	"bytes"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

// valueCache keeps values of a group that were read lately, above the state store: a walk
// along a path reads the same directories again and again, and each command the same
// session. It is exact: a view gets what the store would give at the view's index.
//
// Every value has the index of the state that it was read from; it is what the key has had
// since, because a value goes before the batch that changes its key can be seen. So a view
// may use a value if its own index is not lower. What a view has read from the store it may
// bring in only if no batch since its index has touched the key; of that the cache keeps the
// latest index for each of changedSlots groups of keys, not for each key.
//
// Two generations of values bound the memory: when the young one has half of it, it becomes
// the old one, and what was old goes. What is used in the old one becomes young again.
type valueCache struct {
	max *atomic.Int64 // bytes of a group's cache

	mu         sync.Mutex
	young, old map[string]cached
	youngBytes int64
	changed    [changedSlots]uint64 // index of the last batch that touched one of these keys
}

// cached is a value, which nobody changes, and the index of the state it was read from.
type cached struct {
	value []byte
	from  uint64
}

const (
	// cacheBytes bounds the values cached on a node, with their keys and what they cost in
	// memory; the groups share it.
	cacheBytes = 32 << 20
	// cacheBytesMin is the least that a group gets.
	cacheBytesMin = 256 << 10
	// cachedValueMax is the largest value that is kept.
	cachedValueMax = 4 << 10
	// cachedOverhead is what a value takes beside key and value.
	cachedOverhead = 96

	changedSlots = 1024
)

// changedSlot returns which keys share a place in valueCache.changed (FNV-1a).
func changedSlot(key []byte) uint32 {
	h := uint32(2166136261)
	for _, b := range key {
		h = (h ^ uint32(b)) * 16777619
	}
	return (h ^ h>>16) % changedSlots
}

// get returns the value that the key has at an index, if it is known.
func (c *valueCache) get(key []byte, at uint64) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v, ok := c.young[string(key)]; ok {
		return v.value, v.from <= at
	}
	v, ok := c.old[string(key)]
	if !ok || v.from > at {
		return nil, false
	}
	c.keep(key, v)
	return v.value, true
}

// fill brings in a value that was read from the state at an index.
func (c *valueCache) fill(key, value []byte, at uint64) {
	if len(value) > cachedValueMax {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changed[changedSlot(key)] <= at {
		c.keep(key, cached{value, at})
	}
}

// keep puts a value into the young generation. c.mu is held.
func (c *valueCache) keep(key []byte, v cached) {
	if c.youngBytes >= c.max.Load()/2 {
		c.old, c.young, c.youngBytes = c.young, nil, 0
	}
	if c.young == nil {
		c.young = map[string]cached{}
	}
	if before, ok := c.young[string(key)]; ok {
		c.youngBytes -= int64(len(key) + len(before.value) + cachedOverhead)
	}
	c.youngBytes += int64(len(key) + len(v.value) + cachedOverhead)
	c.young[string(key)] = v
	delete(c.old, string(key))
}

// forget lets the keys go that a batch touches which leads to an index, before the batch can
// be seen, and notes which of them were there.
func (c *valueCache) forget(touched map[string]*touch, index uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, t := range touched {
		young, ok := c.young[key]
		if ok {
			c.youngBytes -= int64(len(key) + len(young.value) + cachedOverhead)
			delete(c.young, key)
		}
		_, aged := c.old[key]
		delete(c.old, key)
		t.hot = ok || aged
		c.changed[changedSlot([]byte(key))] = index
	}
}

// renew brings in what a batch, that can be seen now, has made of the keys that were there.
func (c *valueCache) renew(touched map[string]*touch, index uint64) {
	for key, t := range touched {
		if t.hot && !t.gone {
			c.fill([]byte(key), t.value, index)
		}
	}
}

// clear lets everything go, because the state is replaced by that of an index or because a
// batch that leads to it touches keys which it does not name.
func (c *valueCache) clear(index uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.young, c.old, c.youngBytes = nil, nil, 0
	for i := range c.changed {
		c.changed[i] = index
	}
}

// touch is what a run of commands has made of a key.
type touch struct {
	value []byte
	gone  bool // it was deleted
	hot   bool // it was in the cache
}

// shareCache gives each of n groups its part of the memory for cached values.
func (h *Host) shareCache(n int) {
	h.cacheShare.Store(max(cacheBytesMin, cacheBytes/int64(max(n, 1))))
}

// cachedReader is a reader of a state at a known index, above the cache.
type cachedReader struct {
	reader
	cache *valueCache
	at    uint64
}

// Get implements Reader.
func (r *cachedReader) Get(key []byte) ([]byte, bool) {
	if v, ok := r.cache.get(key, r.at); ok {
		return v, true
	}
	v, ok := r.reader.Get(key)
	if ok {
		r.cache.fill(key, v, r.at)
	}
	return v, ok
}

// writer is a group's state in a batch that is being filled. What the batch has is kept
// beside it, by key: reading it there costs a third of asking the batch.
type writer struct {
	cachedReader // at the index that is applied already
	batch        *pebble.Batch
	touched      map[string]*touch
	ranged       bool // a range was deleted: the cache knows nothing of the batch's keys
}

// Get implements KV.
func (w *writer) Get(key []byte) ([]byte, bool) {
	if t := w.touched[string(key)]; t != nil {
		return t.value, !t.gone
	}
	if w.ranged {
		return w.reader.Get(key)
	}
	return w.cachedReader.Get(key)
}

func (w *writer) touch(key []byte, t touch) {
	if old := w.touched[string(key)]; old != nil {
		*old = t
		return
	}
	w.touched[string(key)] = &t
}

// hide lets go of what the batch changes, before it can be seen; show brings back what was in
// use. The index is the one that the batch leads to.
func (w *writer) hide(index uint64) {
	switch {
	case off(StaleCache):
		return
	case w.ranged:
		w.cache.clear(index)
		return
	}
	w.cache.forget(w.touched, index)
}

func (w *writer) show(index uint64) { w.cache.renew(w.touched, index) }

// deleteTouched notes that a range was deleted.
func (w *writer) deleteTouched(lo, hi []byte) {
	w.ranged = true
	for key, t := range w.touched {
		if k := []byte(key); bytes.Compare(k, lo) >= 0 && (hi == nil || bytes.Compare(k, hi) < 0) {
			*t = touch{gone: true}
		}
	}
}
