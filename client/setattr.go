package client

import (
	"context"
	"io/fs"
	"math"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client/attr"
)

// AttrChange says which attributes of a file or directory are set; those that are nil stay as they
// are. Quarry keeps them and shows them; it refuses nobody anything because of them.
type AttrChange struct {
	// Mode are the permission bits, with set-user, set-group and sticky, as POSIX has them:
	// 0 to 07777; see [ModeBits].
	Mode *uint32
	// UID and GID are the owner and the group.
	UID, GID *uint32
	// Modified is when it was changed, in the years 1678 to 2261; the zero time is that of the
	// change, by the masters' clocks. It is what the next change of the file makes it.
	Modified *time.Time
}

// SetAttr sets attributes of a file or directory, all in one step, and returns what it is then.
func (f *FS) SetAttr(ctx context.Context, path string, change AttrChange) (Info, error) {
	req, err := change.request()
	if err != nil {
		return Info{}, fail("set attributes", path, err)
	}
	attr, err := f.lookupPath(ctx, path)
	if err != nil {
		return Info{}, fail("set attributes", path, err)
	}
	req.Inode = attr.Inode
	reply, err := mutate(ctx, f, attr.Inode.Slot(), func(op quarry.Op) (*quarry.AttrReply, error) {
		req.Op = op
		return f.masters.SetAttr(ctx, &req)
	})
	if err != nil {
		return Info{}, fail("set attributes", path, err)
	}
	return Info{Path: path, Attr: reply.Attr}, nil
}

func (c *AttrChange) request() (req quarry.SetAttrRequest, err error) {
	if c.Mode != nil {
		req.SetMode, req.Mode = true, *c.Mode
	}
	if c.UID != nil {
		req.SetUID, req.UID = true, *c.UID
	}
	if c.GID != nil {
		req.SetGID, req.GID = true, *c.GID
	}
	if c.Modified != nil {
		req.SetModified = true
		if req.ModifiedNS, err = attr.NS(*c.Modified); err != nil {
			return req, err
		}
	}
	return req, nil
}

// Chmod sets the permission bits of a file or directory.
func (f *FS) Chmod(ctx context.Context, path string, mode fs.FileMode) error {
	bits := ModeBits(mode)
	_, err := f.SetAttr(ctx, path, AttrChange{Mode: &bits})
	return err
}

// Chown sets the owner and the group of a file or directory; -1 leaves one as it is.
func (f *FS) Chown(ctx context.Context, path string, uid, gid int) error {
	var change AttrChange
	for _, id := range []struct {
		n  int
		to **uint32
	}{{uid, &change.UID}, {gid, &change.GID}} {
		switch n := int64(id.n); {
		case n == -1:
		case n < 0 || n > math.MaxUint32:
			return quarry.Errorf("chown", quarry.Invalid, path, "%d is no user or group: they are 0 to %d", n, uint32(math.MaxUint32))
		default:
			u := uint32(n)
			*id.to = &u
		}
	}
	_, err := f.SetAttr(ctx, path, change)
	return err
}

// Chtimes sets when a file or directory was changed; the zero time is now, by the masters' clocks.
func (f *FS) Chtimes(ctx context.Context, path string, modified time.Time) error {
	_, err := f.SetAttr(ctx, path, AttrChange{Modified: &modified})
	return err
}

// ModeBits returns the permissions, set-user, set-group and sticky bits of a mode as POSIX has them;
// what else it says is left out.
func ModeBits(mode fs.FileMode) uint32 { return attr.Bits(mode) }
