package chunkserver

import (
	"context"
	"errors"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/chunk"
	"github.com/quarryfs/quarry/protocol"
)

// arrival is a sealed chunk that has been fetched and waits to be installed.
type arrival struct {
	incoming *chunk.Incoming
	runs     []quarry.RecordRun
}

// commit installs the copy. It ends the arrival, whatever becomes of it.
func (a *arrival) commit(c *protocol.Change, done func(error)) {
	a.incoming.Commit(a.runs, c.Forgotten, done)
}

// Copy fetches a sealed chunk from one of its sources. The records come with the bytes, in
// one change of the disk: bytes without them would say "absent" of records that are there.
func (s *Server) Copy(ctx context.Context, req *quarry.CopyRequest) error {
	r, err := s.ordered("copy", &req.ChunkRef, req.Disk)
	if err != nil {
		return err
	}
	defer r.release()
	if len(req.Parts) == 0 && len(req.Sources) == 0 || len(req.Sources) > quarry.ReplicasMax {
		return quarry.Errorf("copy", quarry.Invalid, req.Handle.String(), "%d sources", len(req.Sources))
	}
	here, err := look(r, func(m *protocol.Member) (bool, error) {
		i := m.Info()
		sealed := i.Status == quarry.ReplicaGood && i.SealVersion > i.LogVersion
		return sealed && i.SealVersion == req.Version && i.Length == req.Length, m.CanCopy(req)
	})
	if err != nil || here {
		return err // here: the same request again
	}
	if len(req.Parts) > 0 {
		return r.gatherParts(ctx, req)
	}
	err = quarry.Errorf("copy", quarry.Unavailable, req.Handle.String(), "no source could be read")
	for _, source := range req.Sources {
		if err = r.copyFrom(ctx, req, source); err == nil {
			r.instead(req.Version)
			return nil
		}
		if ctx.Err() != nil || !elsewhere(err) {
			return err
		}
		s.cfg.Logger.Warn("a copy is tried from another source", "chunk", req.Handle, "source", source.Address, "error", err)
		if errors.Is(err, quarry.Corrupt) {
			whose := suspect(source, err)
			s.background(func(ctx context.Context) { s.tellCorrupt(ctx, req.Handle, req.Version, whose) })
		}
	}
	return err
}

// instead ends the lost replica in whose place a copy is now, on another disk.
func (r *replica) instead(v quarry.Version) {
	r.mu.Lock()
	before := r.before
	r.before = nil
	r.mu.Unlock()
	if before != nil && before.disk.Err() == nil {
		before.disk.Drop(r.handle, v, r.server.cfg.Clock.Wall(), nil)
	}
}

// elsewhere reports whether another source may help.
func elsewhere(err error) bool {
	switch quarry.KindOf(err) {
	case quarry.NoSpace, quarry.Permission:
		return false
	}
	return true
}

// copyFrom fetches the chunk from one source and installs it.
func (r *replica) copyFrom(ctx context.Context, req *quarry.CopyRequest, source quarry.Member) error {
	s := r.server
	from := s.cfg.Dial(source)
	ref := quarry.ChunkRef{
		Handle: req.Handle, Version: req.Version, Target: source.Incarnation,
		Capability: s.sign(req.Handle, quarry.RightRead),
	}
	runs, forgotten, err := fetchRecords(ctx, from, ref, req.Length)
	if err != nil {
		return err
	}
	table, err := protocol.MakeRecords(runs)
	if err != nil {
		return err
	}
	incoming, err := r.disk.Receive(req)
	if err != nil {
		return err
	}
	if err = s.fetchBytes(ctx, from, ref, req, incoming); err == nil {
		err = incoming.Check(runs, forgotten) // what is wrong here is the source's doing
	}
	if err != nil {
		incoming.Abort()
		return err
	}
	return r.install(ctx, req, &arrival{incoming, runs}, &table, forgotten)
}

// install makes what was fetched the replica.
func (r *replica) install(ctx context.Context, req *quarry.CopyRequest, a *arrival, table *protocol.Records, forgotten []quarry.SessionID) error {
	taken := false
	_, err := r.ask(ctx, func(m *protocol.Member, c protocol.Call) []protocol.Effect {
		taken = r.own(m.Copied(c, req, table, forgotten), protocol.ChangeCopy, a.commit)
		return nil
	})
	if !taken {
		a.incoming.Abort()
	}
	return err
}

// fetchRecords fetches the table of a chunk's records.
func fetchRecords(ctx context.Context, from quarry.ChunkServer, ref quarry.ChunkRef, length int64) (runs []quarry.RecordRun, forgotten []quarry.SessionID, err error) {
	req := &quarry.RecordsRequest{ChunkRef: ref}
	for {
		reply, err := from.Records(ctx, req)
		if err != nil {
			return nil, nil, err
		}
		if reply.Length != length {
			return nil, nil, quarry.Errorf("copy", quarry.StaleVersion, ref.Handle.String(), "the source has %d bytes of %d", reply.Length, length)
		}
		runs, forgotten = append(runs, reply.Runs...), reply.Forgotten
		if !reply.More {
			return runs, forgotten, nil
		}
		if reply.Next <= req.Offset || len(runs) > protocol.RunsMax {
			return nil, nil, quarry.Errorf("copy", quarry.Invalid, ref.Handle.String(), "the source's list of records does not end")
		}
		req.Offset = reply.Next
	}
}

// fetchBytes fetches the bytes, a piece after the other, no faster than the request and clients allow.
func (s *Server) fetchBytes(ctx context.Context, from quarry.ChunkServer, ref quarry.ChunkRef, req *quarry.CopyRequest, to *chunk.Incoming) error {
	buf := make([]byte, quarry.ReadBytesMax)
	paced := s.pace(req.BytesPerSecond, req.BytesPerSecondLeast)
	tries := 0
	for to.Length() < req.Length {
		at := to.Length()
		n := min(req.Length-at, quarry.ReadBytesMax)
		reply, err := from.Read(ctx, &quarry.ReadRequest{ChunkRef: ref, Offset: at, Length: n, Validated: true, Copying: true, Into: buf[:n]})
		if err != nil {
			return err
		}
		if len(reply.Data) == 0 {
			return quarry.Errorf("copy", quarry.StaleVersion, ref.Handle.String(), "the source has only %d bytes of %d", at, req.Length)
		}
		err = to.Write(reply.Data, reply.CRCs)
		if reply.Release != nil {
			reply.Release()
		}
		if errors.Is(err, quarry.Corrupt) && tries == 0 {
			tries++ // they may have broken on the way
			continue
		}
		if err != nil {
			return err
		}
		if err := paced.piece(ctx, to.Length()-at, reply.Pressed); err != nil {
			return err
		}
	}
	return nil
}
