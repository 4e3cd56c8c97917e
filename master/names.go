package master

import (
	"context"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

// Lookup walks a path from an inode.
func (m *Master) Lookup(ctx context.Context, req *quarry.LookupRequest) (*quarry.LookupReply, error) {
	return read(ctx, m, "lookup", req.From.Slot(), func(v meta.View) (*quarry.LookupReply, error) {
		return meta.Lookup(v, req, nil)
	})
}

// List returns a page of a directory.
func (m *Master) List(ctx context.Context, req *quarry.ListRequest) (*quarry.ListReply, error) {
	return read(ctx, m, "list", req.Dir.Slot(), func(v meta.View) (*quarry.ListReply, error) {
		return meta.List(v, req, nil)
	})
}

// Make makes an empty file or a directory. A new directory keeps its parent's slot, unless the
// request says where it is to be.
func (m *Master) Make(ctx context.Context, req *quarry.MakeRequest) (*quarry.AttrReply, error) {
	slot := req.Parent.Slot()
	if req.Placed && req.Kind == quarry.KindDir {
		slot = req.Slot
		here, _ := m.root.owner(req.Parent.Slot())
		if there, ok := m.root.owner(slot); ok && there != here {
			return nil, quarry.Errorf("make", quarry.Unsupported, "", "slot %d lives on shard %d, the directory above on shard %d", slot, there, here)
		}
	}
	return m.change(ctx, "make", req.Parent, req.Op, &meta.Make{
		Parent: req.Parent, Name: req.Name, Kind: req.Kind, Mode: req.Mode, Existing: req.Existing, Slot: slot,
	})
}

// Link publishes a file of sealed chunks.
func (m *Master) Link(ctx context.Context, req *quarry.LinkRequest) (*quarry.AttrReply, error) {
	return m.change(ctx, "link", req.Parent, req.Op, &meta.Link{
		Parent: req.Parent, Name: req.Name, Mode: req.Mode, Pieces: req.Pieces, Replace: req.Replace,
	})
}

// Rename moves a name.
func (m *Master) Rename(ctx context.Context, req *quarry.RenameRequest) (*quarry.AttrReply, error) {
	return m.change(ctx, "rename", req.Parent, req.Op, &meta.Rename{
		Parent: req.Parent, Name: req.Name, ToParent: req.ToParent, ToName: req.ToName, Replace: req.Replace,
	})
}

// Remove removes a file or an empty directory.
func (m *Master) Remove(ctx context.Context, req *quarry.RemoveRequest) error {
	_, err := m.change(ctx, "remove", req.Parent, req.Op, &meta.Remove{Parent: req.Parent, Name: req.Name, Dir: req.Dir})
	return err
}

// change proposes a change of the namespace.
func (m *Master) change(ctx context.Context, op string, parent quarry.Inode, once quarry.Op, body meta.Body) (*quarry.AttrReply, error) {
	sh, err := m.shardOf(op, home(once, parent.Slot()))
	if err != nil {
		return nil, err
	}
	result, err := sh.propose(ctx, once, body)
	if err == nil && result.Tx != 0 && !result.Decided {
		err = quarry.Errorf(op, quarry.Unsupported, "", "it concerns several shards")
		if _, giveUp := sh.propose(ctx, quarry.Op{}, &meta.Decide{Tx: result.Tx, Err: err}); giveUp != nil {
			err = giveUp
		}
	}
	if err != nil {
		return nil, m.wrongShard(op, err)
	}
	sh.orphaned(result.Orphans)
	return &quarry.AttrReply{Attr: result.Attr}, nil
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
