// Package history shows whether a cluster keeps its promises. A [Workload] drives clients
// from a seed, a [Recorder] writes down every operation with the instants at which it was
// called and returned, and the checkers decide whether there is an order of the operations
// that explains all results. [Check] runs them all.
//
// # Nouns
//
// An [Op] is one operation of one worker; a worker is a goroutine of a client that does one
// thing after the other. A subject is what operations are about and what is checked by
// itself: a log that many append to, a file that is replaced whole, or a tree of names. What
// an operation did is its [Outcome]: done, surely not done, or unknown. An unknown operation
// may take effect at any instant after its call, or never.
//
// # Checkers
//
//   - append log: every acknowledged record once, at its offset, in real-time order; readers
//     see what the file has; lengths grow. Linear in the history.
//   - names: create, mkdir, put, rename, remove, list and stat of a small tree are
//     linearizable. A search (porcupine).
//   - register: put and read of whole files are linearizable. A search (porcupine).
//
// A search may take for ever: subjects live for a bounded number of operations, so that each
// search is small, and one that takes too many steps is reported as inconclusive, never as
// passed.
//
// # Invariants
//
// The workload never takes a slow or failing cluster for wrong: errors are written down with
// their kind, and only the checkers judge. What is recorded is bounded, see [Limits].
//
// # Determinism
//
// Every decision of a worker follows from the seed and from its own results; it waits by the
// clock it is given. Checkers do not read a clock, but for the limit on a search: run them
// outside of a testing/synctest bubble.
package history
