// Package totals is what a shard counts of its state.
package totals

import "github.com/quarryfs/quarry/wire"

// Counters are totals of the shard's state, kept with every change.
type Counters struct {
	Files        int64
	Dirs         int64
	Removed      int64 // files that are removed and not collected yet
	Chunks       int64 // all chunk records
	Open         int64 // chunks that are open or being sealed
	UnderCopied  int64 // sealed chunks with fewer copies than wanted, the missing ones among them
	Missing      int64 // chunks with no copy that counts, lost ones among them
	Suspect      int64 // chunks sealed with an alarm
	Garbage      int64 // chunks that nothing needs, until their replicas are dropped
	Items        int64 // that servers owe
	Sessions     int64
	Transactions int64 // that the shard coordinates
	Intents      int64 // that transactions have left, their coordinators' own among them
	RemovedBytes int64 // of the removed files, without what has yet to be sealed
	Doomed       int64 // removed files that cannot be brought back (any more)
	DoomedBytes  int64 // of those
}

// Fields walks the counters' fields.
func Fields(w *wire.Walk, c *Counters) {
	wire.Uint(w, 1, &c.Files)
	wire.Uint(w, 2, &c.Dirs)
	wire.Uint(w, 3, &c.Removed)
	wire.Uint(w, 4, &c.Chunks)
	wire.Uint(w, 5, &c.Open)
	wire.Uint(w, 6, &c.UnderCopied)
	wire.Uint(w, 7, &c.Missing)
	wire.Uint(w, 8, &c.Suspect)
	wire.Uint(w, 9, &c.Garbage)
	wire.Uint(w, 10, &c.Items)
	wire.Uint(w, 11, &c.Sessions)
	wire.Uint(w, 12, &c.Transactions)
	wire.Uint(w, 13, &c.Intents)
	wire.Uint(w, 20, &c.RemovedBytes)
	wire.Uint(w, 21, &c.Doomed)
	wire.Uint(w, 22, &c.DoomedBytes)
}

// Trash counts n removed files more, with some bytes together; those that are doomed cannot be brought
// back (any more).
func (c *Counters) Trash(n, bytes int64, doomed bool) {
	c.Removed += n
	c.RemovedBytes += bytes
	if doomed {
		c.Doomed += n
		c.DoomedBytes += bytes
	}
}
