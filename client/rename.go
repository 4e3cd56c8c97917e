package client

import (
	"context"

	"github.com/quarryfs/quarry"
)

// Rename gives a file or directory another name, in one step. A file that has the name is
// replaced; a directory is not. A directory cannot be moved below itself.
func (f *FS) Rename(ctx context.Context, from, to string) error {
	parent, name, err := f.parent(ctx, from)
	if err != nil {
		return fail("rename", from, err)
	}
	toParent, toName, err := f.parent(ctx, to)
	if err != nil {
		return fail("rename", to, err)
	}
	_, err = mutate(ctx, f, parent.Slot(), func(op quarry.Op) (*quarry.AttrReply, error) {
		return f.masters.Rename(ctx, &quarry.RenameRequest{
			Op: op, Parent: parent, Name: name, ToParent: toParent, ToName: toName, Replace: true, ToPath: cleanPath(to),
		})
	})
	return fail("rename", from+" to "+to, err)
}
