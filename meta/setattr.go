package meta

import (
	"cmp"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta/attr"
	"github.com/quarryfs/quarry/wire"
)

// SetAttr sets attributes of a file or directory that are kept to be shown. NotFound: it is gone, or
// in the trash. Result: Attr.
type SetAttr struct{ attr.Change }

func (*SetAttr) kind() Kind { return KindSetAttr }

func (c *SetAttr) fields(w *wire.Walk) { attr.Fields(w, &c.Change) }

func (c *SetAttr) apply(t *tx, r *Result) error {
	i := t.inode(c.Inode)
	switch {
	case !t.header.owns(c.Inode.Slot()):
		return wrongShard(c.Inode.Slot())
	case c.SetMode && c.Mode > modeMax:
		return refuse(quarry.Invalid, c.Inode.String(), "mode %#o has bits beyond %#o", c.Mode, modeMax)
	case i == nil:
		return refuse(quarry.NotFound, c.Inode.String(), "it is not there (any more)")
	}
	attr.Set(c.SetMode, &i.Mode, c.Mode)
	attr.Set(c.SetUID, &i.UID, c.UID)
	attr.Set(c.SetGID, &i.GID, c.GID)
	attr.Set(c.SetModified, &i.ModifiedNS, cmp.Or(c.ModifiedNS, t.wallNS))
	t.putInode(c.Inode, i)
	r.Attr = i.attr(c.Inode)
	return nil
}
