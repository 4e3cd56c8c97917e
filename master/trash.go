package master

import (
	"context"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/meta/root"
)

// Removed returns a page of the trash of a shard.
func (m *Master) Removed(ctx context.Context, req *quarry.RemovedRequest) (*quarry.RemovedReply, error) {
	sh, err := m.shard("removed", req.Shard)
	if err != nil {
		return nil, err
	}
	var reply *quarry.RemovedReply
	err = sh.read(ctx, func(v meta.View) (err error) {
		reply, err = meta.Removed(v, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	reply.KeepMS = m.trashKeep().Milliseconds()
	return reply, nil
}

// Undelete gives a file in the trash a name again.
func (m *Master) Undelete(ctx context.Context, req *quarry.UndeleteRequest) (*quarry.AttrReply, error) {
	return m.change(ctx, "undelete", req.Parent, req.Op, &meta.Undelete{Parent: req.Parent, Name: req.Name, Inode: req.Inode})
}

// KeepTrash sets how long removed files are kept.
func (m *Master) KeepTrash(ctx context.Context, req *quarry.TrashRequest) error {
	if !m.started.Load() {
		return m.waiting("keep trash")
	}
	if err := m.root.speak(trashLevel); err != nil {
		return quarry.Wrap("keep trash", "", err)
	}
	_, err := m.root.propose(ctx, &root.KeepTrash{KeepMS: req.KeepMS})
	return quarry.Wrap("keep trash", "", err)
}

// trashLevel is the feature level that brought the trash.
const trashLevel = 2

// trashKeep returns how long removed files are kept: what the cluster says, or else this master's
// configuration, but never less than sessions live.
func (m *Master) trashKeep() time.Duration {
	if r := m.root.known.Load(); r != nil && r.trashMS > 0 {
		return max(time.Duration(r.trashMS)*time.Millisecond, m.cfg.SessionExpiry)
	}
	return m.cfg.TrashKeep
}
