package meta

import "github.com/quarryfs/quarry/meta/kv"

// View reads the state; see [kv.View].
type View = kv.View

// KV is the state as a command sees and changes it; see [kv.KV].
type KV = kv.KV

// Memory is a state in memory, for tests and simulations; see [kv.Memory].
type Memory = kv.Memory

// NewMemory returns an empty state.
func NewMemory() *Memory { return kv.NewMemory() }
