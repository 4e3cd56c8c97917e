// Package kv is the ordered key-value state that state machines of a shard and of the root group
// change, as they see it, and one in memory.
package kv

// View reads an ordered key-value state, in which keys are compared as bytes.
type View interface {
	// Get returns the key's value, which the caller must not change, and false if there is
	// none.
	Get(key []byte) (value []byte, ok bool)
	// Scan calls fn with the keys from lo (inclusive) to hi (exclusive) in ascending order
	// until fn returns false; nil means no bound. Key and value are valid only during fn,
	// and fn must not change the state.
	Scan(lo, hi []byte, fn func(key, value []byte) bool)
}

// KV is the state as a command sees and changes it: reads see the writes made before them.
// Keys and values given to it are copied. The host writes all changes of a command in one
// step with the command's index.
type KV interface {
	View
	// Set sets the key's value.
	Set(key, value []byte)
	// Delete removes the key, if it is there.
	Delete(key []byte)
	// DeleteRange removes the keys from lo (inclusive) to hi (exclusive); nil means no bound.
	DeleteRange(lo, hi []byte)
}
