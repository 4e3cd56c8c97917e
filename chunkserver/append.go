package chunkserver

import (
	"context"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/crc32c"
	"github.com/quarryfs/quarry/protocol"
)

// Append takes a record at the primary; see [quarry.ChunkServer]. Its bytes are checked
// against the client's checksums while they are hot, before anything is done with them.
func (s *Server) Append(ctx context.Context, req *quarry.AppendRequest, done func(*quarry.AppendReply, error)) {
	r, err := s.allowed("append", &req.ChunkRef, quarry.RightAppend)
	if err == nil {
		defer r.release()
		err = checkBytes("append", req.Handle, req.Data, req.CRCs)
	}
	if err == nil {
		err = s.takeMemory("append", req.Handle, len(req.Data))
	}
	if err != nil {
		done(nil, err)
		return
	}
	n := int64(len(req.Data))
	header := quarry.RecordHeader{Session: req.Session, Sequence: req.Sequence, Length: n, CRCs: req.CRCs}
	b := &body{data: req.Data, headers: []quarry.RecordHeader{header}}
	answered := func(reply any, err error) {
		s.memory.Add(-n)
		if err != nil {
			done(nil, err)
			return
		}
		done(reply.(*quarry.AppendReply), nil)
	}
	now := s.cfg.Clock.Now()
	s.traffic.served(now)
	r.request(b, answered, func(m *protocol.Member, c protocol.Call) []protocol.Effect {
		r.touched = now
		return m.Append(c, &req.ChunkRef, req.Oldest, header)
	})
}

// checkBytes returns an error unless data is a record and its checksums are those of its
// parts. Corrupt names the hop by whoever returns it: the sender's bytes broke on their way
// to this server.
func checkBytes(op string, h quarry.Handle, data []byte, crcs []uint32) error {
	n := int64(len(data))
	switch {
	case n < 1 || n > quarry.RecordBytesMax:
		return quarry.Errorf(op, quarry.TooLarge, h.String(), "a record has 1 to %d bytes, this one has %d", quarry.RecordBytesMax, n)
	case int64(len(crcs)) != quarry.Blocks(n):
		return quarry.Errorf(op, quarry.Invalid, h.String(), "%d bytes need %d checksums, %d were sent", n, quarry.Blocks(n), len(crcs))
	}
	for i, want := range crcs {
		part := data[i*quarry.BlockBytes : min((i+1)*quarry.BlockBytes, len(data))]
		if crc32c.Checksum(part) != want {
			return quarry.Errorf(op, quarry.Corrupt, h.String(), "the bytes do not match their checksum: they broke on the way here")
		}
	}
	return nil
}

// takeMemory counts bytes that have been received and are not yet committed.
func (s *Server) takeMemory(op string, h quarry.Handle, n int) error {
	if s.memory.Add(int64(n)) > s.cfg.MemoryBytes {
		s.memory.Add(-int64(n))
		return quarry.Errorf(op, quarry.Busy, h.String(), "%d MiB of records wait for the disks already", s.cfg.MemoryBytes>>20)
	}
	return nil
}
