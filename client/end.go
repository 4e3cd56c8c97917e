package client

import (
	"context"
	"slices"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client/waiting"
)

// end returns where the file ends at some instant of the call.
//
// Only the primary of the tail's version may say so, and only with a lease: without one its
// answer counts if the master says afterwards that the chunk is still open at that version.
// Of a file that is not open the master knows the length.
func (l *layout) end(ctx context.Context) (int64, error) {
	l.mu.Lock()
	tail := l.open
	l.mu.Unlock()
	p := l.f.patience()
	for {
		var err error
		answered := false
		if tail != nil {
			var length int64
			if length, answered, err = l.f.tailEnd(ctx, tail); err == nil {
				return length, nil
			}
		}
		// The tail was sealed, or there is none, or its primary does not answer.
		reply, statErr := l.f.masters.Stat(ctx, &quarry.StatRequest{Inode: l.file})
		switch {
		case statErr != nil && !waiting.Transient(statErr):
			return 0, statErr
		case statErr != nil:
			err = statErr
		case !reply.Attr.Open:
			l.setOpen(nil)
			return reply.Attr.Length, nil
		default:
			again := tail != nil && reply.Tail != nil && tail.chunk.Version == reply.Tail.Version && tail.chunk.Handle == reply.Tail.Handle
			if tail, statErr = openOf(reply); statErr != nil {
				return 0, statErr
			}
			l.setOpen(tail)
			if !again {
				continue
			}
			// If nobody writes, nobody else may notice that the tail has no primary.
			if !answered {
				l.f.report(tail.chunk, tail.chunk.Primary(), false, err.Error())
			}
		}
		if err := p.Wait(ctx, err); err != nil {
			return 0, err
		}
	}
}

// setOpen keeps what the open tail is, nil if there is none, and forgets pages that say
// something else.
func (l *layout) setOpen(tail *open) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = tail
	l.pages = slices.DeleteFunc(l.pages, func(p *page) bool {
		t := p.tail()
		return t != nil && (tail == nil || t.piece.Handle != tail.piece.Handle)
	})
}

// openOf returns the tail that a master's answer names.
func openOf(reply *quarry.StatReply) (*open, error) {
	if reply.Tail == nil || len(reply.Tail.Members) == 0 || reply.Piece.Handle != reply.Tail.Handle {
		return nil, quarry.Errorf("stat", quarry.Internal, reply.Attr.Inode.String(), "the master calls the file open and names no chunk")
	}
	return &open{reply.Piece, reply.Tail}, nil
}

// tailEnd asks the primary of an open tail how long the file is. answered tells whether the
// primary did its part.
func (f *FS) tailEnd(ctx context.Context, tail *open) (length int64, answered bool, err error) {
	if tail.chunk.State != quarry.ChunkOpen {
		return 0, true, quarry.Errorf("end", quarry.StaleVersion, tail.chunk.Handle.String(), "the chunk is %v", tail.chunk.State)
	}
	primary := tail.chunk.Primary()
	try, cancel := f.clock.WithTimeout(ctx, replyMax)
	defer cancel()
	reply, err := f.servers(primary).End(try, &quarry.EndRequest{ChunkRef: reference(tail.chunk, primary)})
	if err != nil {
		return 0, false, err
	}
	if reply.Confirm {
		if err := f.confirm(ctx, tail.chunk); err != nil {
			return 0, true, err
		}
	}
	length = reply.Commit - tail.piece.ChunkOffset
	if length < 0 || reply.Commit > quarry.ChunkBytesMax {
		return 0, true, quarry.Errorf("end", quarry.Internal, tail.chunk.Handle.String(), "the primary says %d", reply.Commit)
	}
	return tail.piece.Offset + length, true, nil
}

// confirm asks the master whether a chunk is still open at the version that is known.
func (f *FS) confirm(ctx context.Context, chunk *quarry.Chunk) error {
	reply, err := f.masters.Chunk(ctx, &quarry.ChunkRequest{Handle: chunk.Handle})
	if err != nil {
		return err
	}
	if reply.Chunk.State != quarry.ChunkOpen || reply.Chunk.Version != chunk.Version {
		return quarry.Errorf("end", quarry.StaleVersion, chunk.Handle.String(), "it is %v at version %d", reply.Chunk.State, reply.Chunk.Version)
	}
	return nil
}

// reference names a chunk to one of its members.
func reference(c *quarry.Chunk, m quarry.Member) quarry.ChunkRef {
	return quarry.ChunkRef{Handle: c.Handle, Version: c.Version, Target: m.Incarnation, Capability: c.Capability}
}
