package client

import (
	"context"

	"github.com/quarryfs/quarry"
)

// Permission bits of what is made; they are kept and shown, not enforced.
const (
	modeFile = 0o644
	modeDir  = 0o755
)

// Mkdir makes a directory. Exists if the name is taken, NotFound if the directory above is
// missing.
func (f *FS) Mkdir(ctx context.Context, path string) error {
	parent, name, err := f.parent(ctx, path)
	if err != nil {
		return fail("mkdir", path, err)
	}
	_, err = f.make(ctx, quarry.MakeRequest{Parent: parent, Name: name, Kind: quarry.KindDir, Mode: modeDir})
	return fail("mkdir", path, err)
}

// MkdirIn is Mkdir with a slot, 0 to quarry.Slots-1, in which the directory and all that is made
// in it are kept: for those who spread a load by hand, and for tests.
func (f *FS) MkdirIn(ctx context.Context, path string, slot quarry.Slot) error {
	parent, name, err := f.parent(ctx, path)
	if err != nil {
		return fail("mkdir", path, err)
	}
	if slot >= quarry.Slots {
		return fail("mkdir", path, quarry.Errorf("slot", quarry.Invalid, "", "the slots are 0 to %d", quarry.Slots-1))
	}
	_, err = f.make(ctx, quarry.MakeRequest{Parent: parent, Name: name, Kind: quarry.KindDir, Mode: modeDir, Placed: true, Slot: slot})
	return fail("mkdir", path, err)
}

// MkdirAll makes a directory and those above it, as far as they are missing. A directory
// that exists is a success.
func (f *FS) MkdirAll(ctx context.Context, path string) error {
	names, err := split(path)
	if err != nil {
		return fail("mkdir", path, err)
	}
	// Going up first finds the deepest directory that exists in few calls, when most do.
	depth := len(names)
	var at quarry.Attr
	for ; ; depth-- {
		at, err = f.lookup(ctx, names[:depth])
		if err == nil {
			break
		}
		if quarry.KindOf(err) != quarry.NotFound || depth == 0 {
			return fail("mkdir", path, err)
		}
	}
	if at.Kind != quarry.KindDir {
		return fail("mkdir", path, quarry.Errorf("lookup", quarry.NotDir, "", "a part of the path is a file"))
	}
	for _, name := range names[depth:] {
		at, err = f.make(ctx, quarry.MakeRequest{Parent: at.Inode, Name: name, Kind: quarry.KindDir, Mode: modeDir, Existing: true})
		if err != nil {
			return fail("mkdir", path, err)
		}
	}
	return nil
}

func (f *FS) make(ctx context.Context, req quarry.MakeRequest) (quarry.Attr, error) {
	reply, err := mutate(ctx, f, req.Parent.Slot(), func(op quarry.Op) (*quarry.AttrReply, error) {
		req.Op, req.UID, req.GID = op, *f.opts.UID, *f.opts.GID
		return f.masters.Make(ctx, &req)
	})
	if err != nil {
		return quarry.Attr{}, err
	}
	return reply.Attr, nil
}
