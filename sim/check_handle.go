package sim

import "github.com/quarryfs/quarry"

// I13: a handle is used once: all who are asked to make a replica of it are told the same
// file and place.

// asked judges and notes a request to make a replica.
func (o *observer) asked(req *quarry.CreateRequest) {
	c := o.chunk(req.Handle)
	if c.made && (c.file != req.File || c.position != req.Position) {
		o.violated("I13 handles are used once", "chunk %v is to be made at %d of file %v, and was for %d of file %v", req.Handle, req.Position, req.File, c.position, c.file)
	}
	if c.made, c.file, c.position = true, req.File, req.Position; c.ahead() {
		o.log.Count("a replica is made ahead")
	}
}

// ahead reports whether a chunk was made before it was known where it would begin: no file of a
// simulation is as long as it says.
func (c *seenChunk) ahead() bool { return c.position >= quarry.ChunkBytesMax }
