package master

import (
	"context"
	"encoding/binary"
	"hash/fnv"
	"io"
	"math"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/meta"
)

// Lookup walks a path from an inode.
func (m *Master) Lookup(ctx context.Context, req *quarry.LookupRequest) (*quarry.LookupReply, error) {
	return readNames(ctx, m, "lookup", req.From.Slot(), func(v meta.View, met *[]meta.Intent) (*quarry.LookupReply, error) {
		return meta.Lookup(v, req, met)
	})
}

// List returns a page of a directory.
func (m *Master) List(ctx context.Context, req *quarry.ListRequest) (*quarry.ListReply, error) {
	return readNames(ctx, m, "list", req.Dir.Slot(), func(v meta.View, met *[]meta.Intent) (*quarry.ListReply, error) {
		return meta.List(v, req, met)
	})
}

// Make makes an empty file or a directory. A new directory keeps its parent's slot, unless the
// request says where it is to be, or it is in one of the two top levels of the tree.
func (m *Master) Make(ctx context.Context, req *quarry.MakeRequest) (*quarry.AttrReply, error) {
	slot := req.Parent.Slot()
	switch {
	case req.Kind != quarry.KindDir:
	case req.Placed:
		slot = req.Slot
	default:
		slot = m.slotFor(req.Parent, req.Name)
	}
	return m.change(ctx, "make", req.Parent, req.Op, &meta.Make{
		Parent: req.Parent, Name: req.Name, Kind: req.Kind, Mode: req.Mode, UID: req.UID, GID: req.GID, Existing: req.Existing, Slot: slot,
	})
}

// slotFor chooses the slot of a new directory. In the two top levels it is one of two that follow
// from the name: the one whose shard keeps fewer files and directories, as far as this node knows.
func (m *Master) slotFor(parent quarry.Inode, name string) quarry.Slot {
	spread := false
	if sh, err := m.shardOf("make", parent.Slot()); err == nil {
		_ = sh.local(func(v meta.View) error {
			spread = meta.Spread(v, parent)
			return nil
		})
	}
	if !spread {
		return parent.Slot()
	}
	h := fnv.New64a()
	_ = binary.Write(h, binary.BigEndian, uint64(parent)) // a hash takes everything
	_, _ = io.WriteString(h, name)
	sum := h.Sum64()
	first, second := quarry.Slot(sum%quarry.Slots), quarry.Slot(sum>>32%quarry.Slots)
	if m.load(second) < m.load(first) {
		return second
	}
	return first
}

// load returns how many files and directories the shard keeps that owns a slot.
func (m *Master) load(slot quarry.Slot) (n int64) {
	sh, err := m.shardOf("make", slot)
	if err != nil {
		return math.MaxInt64
	}
	_ = sh.local(func(v meta.View) error {
		t := meta.Totals(v)
		n = t.Files + t.Dirs
		return nil
	})
	return n
}

// Link publishes a file of sealed chunks.
func (m *Master) Link(ctx context.Context, req *quarry.LinkRequest) (*quarry.AttrReply, error) {
	return m.change(ctx, "link", req.Parent, req.Op, &meta.Link{
		Parent: req.Parent, Name: req.Name, Mode: req.Mode, UID: req.UID, GID: req.GID, ModifiedNS: req.ModifiedNS,
		Pieces: req.Pieces, Replace: req.Replace, Owner: req.Owner, Path: req.Path,
	})
}

// SetAttr sets attributes that are kept to be shown.
func (m *Master) SetAttr(ctx context.Context, req *quarry.SetAttrRequest) (*quarry.AttrReply, error) {
	return m.change(ctx, "set attributes", req.Inode, req.Op, &meta.SetAttr{Change: *req})
}

// Rename moves a name.
func (m *Master) Rename(ctx context.Context, req *quarry.RenameRequest) (*quarry.AttrReply, error) {
	return m.change(ctx, "rename", req.Parent, req.Op, &meta.Rename{
		Parent: req.Parent, Name: req.Name, ToParent: req.ToParent, ToName: req.ToName, Replace: req.Replace, ToPath: req.ToPath,
	})
}

// Remove removes a file or an empty directory.
func (m *Master) Remove(ctx context.Context, req *quarry.RemoveRequest) error {
	_, err := m.change(ctx, "remove", req.Parent, req.Op, &meta.Remove{
		Parent: req.Parent, Name: req.Name, Dir: req.Dir, Path: req.Path, Now: req.Now,
	})
	return err
}

// Bounds of how often a change is proposed again by the leader itself; clients go on for longer.
const (
	changeTries    = 6
	changePauseMin = 5 * time.Millisecond
)

// change proposes a change of the namespace. If other shards are concerned it waits for the
// decision; what is in the way of it is settled, if that is possible.
func (m *Master) change(ctx context.Context, op string, parent quarry.Inode, once quarry.Op, body meta.Body) (*quarry.AttrReply, error) {
	sh, err := m.shardOf(op, home(once, parent.Slot()))
	if err != nil {
		return nil, err
	}
	for tries, pause := 1, changePauseMin; ; tries, pause = tries+1, 2*pause {
		result, err := sh.changeOnce(ctx, once, body)
		if err == nil && result == nil { // decided meanwhile: the log has the result
			err = quarry.Errorf(op, quarry.Unavailable, "", "it is decided; the same operation can be sent again")
		}
		switch kind := quarry.KindOf(err); {
		case err == nil:
			sh.orphaned(result.Orphans)
			return &quarry.AttrReply{Attr: result.Attr}, nil
		case kind != quarry.Busy && kind != quarry.Unavailable || tries == changeTries || sh.lead.Load() == nil:
			return nil, m.wrongShard(op, err)
		}
		if m.cfg.Clock.Sleep(ctx, clock.Spread(pause, uint64(once.Session), uint64(once.Sequence), tries)) != nil {
			return nil, quarry.Wrap(op, "", err)
		}
	}
}

// changeOnce proposes a change once, and sees to the transaction that it begins or meets.
func (s *shard) changeOnce(ctx context.Context, once quarry.Op, body meta.Body) (*meta.Result, error) {
	t := s.lead.Load()
	if t == nil {
		return nil, s.notLeader("propose")
	}
	result, err := s.proposeIn(ctx, t, once, body)
	switch {
	case err != nil:
		if result != nil && result.HeldUp() != nil {
			_, _ = s.settle(ctx, *result.Met) // if it fails, the change is still Busy
		}
		return nil, err
	case result.Tx == 0:
		return result, nil
	case result.Decided:
		t.transactions.start(result.Tx, false)
		return result, nil
	}
	if result, err = t.transactions.await(ctx, result.Tx); err != nil || result == nil {
		return nil, err
	}
	return result, result.Err
}

// read answers from a linearizable view of the shard that owns a slot.
func read[R any](ctx context.Context, m *Master, op string, slot quarry.Slot, f func(meta.View) (R, error)) (R, error) {
	var none R
	sh, err := m.shardOf(op, slot)
	if err != nil {
		return none, err
	}
	var reply R
	err = sh.read(ctx, func(v meta.View) error {
		var err error
		reply, err = f(v)
		return err
	})
	if err != nil {
		return none, m.wrongShard(op, err)
	}
	return reply, nil
}
