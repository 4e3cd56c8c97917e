// Package resume is what a put that can be gone on with needs of its machine: a place to write down what
// is stored, its [Ledger].
//
// What is stored belongs to a session of its own, in which nothing else is done: each process asks for
// changes in a session of its own, in that owner's name. So requests of a process that is gone, which may
// still be under way, and those of the one that goes on are never taken for each other; and as a chunk is
// linked once, of two processes that would link the same ones, one is refused.
package resume

import (
	"time"

	"github.com/quarryfs/quarry"
)

// Ledger is where a put writes down what it has stored of a file, for another one, perhaps of
// another process, to go on with when it has failed. One put uses it at a time; several of its
// goroutines call Part and Add. An error of a method ends the put.
type Ledger interface {
	// Earlier returns the session that was noted last, 0 if none was. With same, what was noted with
	// it is of the source's present bytes; otherwise the session is ended, and all is begun anew.
	Earlier() (session quarry.SessionID, same bool)
	// Begin forgets everything. From now on a session has what is stored. It returns when that is durable.
	Begin(session quarry.SessionID) error
	// Alive is told that the session lives, and for how long if it hears nothing more.
	Alive(life time.Duration)
	// Part returns where n bytes of the source are stored, the first one offset bytes behind where
	// the Put reads first; nil if that was not noted, or they are others now.
	Part(offset, n int64) []quarry.LinkPiece
	// Add notes where n bytes are stored, and their CRC32C. It returns when that is durable.
	Add(offset, n int64, crc uint32, pieces []quarry.LinkPiece) error
	// Check looks whether the source is what it was. It is called when all is stored and noted, before
	// the file gets its name.
	Check() error
	// End forgets everything: it is of no use any more, because the file has its name or never will.
	End()
}
