package clienttest

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/quarryfs/quarry"
)

// trashKeep is what the cluster says that its trash keeps files for; it keeps the last trashMax.
const (
	trashKeep = time.Hour
	trashMax  = 10_000
)

// discard forgets a file that has lost its name, or puts it into the trash.
func (c *Cluster) discard(n *inode, path string, now bool) {
	if n == nil {
		return
	}
	delete(c.inodes, n.attr.Inode)
	if n.attr.Kind == quarry.KindFile && !now {
		c.trash = append(c.trash[max(0, len(c.trash)+1-trashMax):], removed{n, path, c.clock.Wall().UnixNano()})
	}
}

// removed is a file in the trash.
type removed struct {
	*inode
	path string
	at   int64 // ns
}

// Removed implements quarry.Master; it shows all files of the shard on one page, at most quarry.RemovedMax.
func (m *Master) Removed(ctx context.Context, req *quarry.RemovedRequest) (*quarry.RemovedReply, error) {
	return ask(ctx, m, "removed", func(c *Cluster) (*quarry.RemovedReply, error) {
		reply := &quarry.RemovedReply{KeepMS: trashKeep.Milliseconds()}
		dir := strings.TrimSuffix(req.Path, "/")
		for _, r := range slices.Backward(c.trash) {
			if len(reply.Files) < req.Max && c.owners[r.attr.Inode.Slot()] == req.Shard && (r.path == dir || strings.HasPrefix(r.path, dir+"/")) {
				attr := c.attr(r.inode)
				reply.Files = append(reply.Files, quarry.RemovedFile{Inode: attr.Inode, Path: r.path, Length: attr.Length, Mode: attr.Mode, RemovedNS: r.at})
			}
		}
		slices.Reverse(reply.Files)
		return reply, nil
	})
}

// Undelete implements quarry.Master.
func (m *Master) Undelete(ctx context.Context, req *quarry.UndeleteRequest) (*quarry.AttrReply, error) {
	return ask(ctx, m, "undelete", func(c *Cluster) (*quarry.AttrReply, error) {
		return once(c, req.Op, req.Parent.Slot(), func() (*quarry.AttrReply, error) {
			parent, err := c.dir(req.Parent, req.Name)
			if err != nil {
				return nil, err
			}
			i := slices.IndexFunc(c.trash, func(r removed) bool { return r.attr.Inode == req.Inode })
			switch _, taken := parent.entries[req.Name]; {
			case taken:
				return nil, quarry.Errorf("undelete", quarry.Exists, req.Name, "the name is taken")
			case i < 0:
				return nil, quarry.Errorf("undelete", quarry.NotFound, req.Name, "file %v is not in the trash", req.Inode)
			}
			n := c.trash[i].inode
			c.trash = slices.Delete(c.trash, i, i+1)
			c.inodes[req.Inode], parent.entries[req.Name] = n, req.Inode
			return &quarry.AttrReply{Attr: c.attr(n)}, nil
		})
	})
}
