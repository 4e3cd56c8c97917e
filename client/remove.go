package client

import (
	"context"

	"github.com/quarryfs/quarry"
)

// Remove removes a file or an empty directory.
func (f *FS) Remove(ctx context.Context, path string) error {
	parent, name, err := f.parent(ctx, path)
	if err != nil {
		return fail("remove", path, err)
	}
	remove := func(dir bool) error {
		_, err := mutate(ctx, f, parent.Slot(), func(op quarry.Op) (struct{}, error) {
			return struct{}{}, f.masters.Remove(ctx, &quarry.RemoveRequest{Op: op, Parent: parent, Name: name, Dir: dir})
		})
		return err
	}
	err = remove(false)
	if quarry.KindOf(err) == quarry.IsDir {
		err = remove(true)
	}
	return fail("remove", path, err)
}
