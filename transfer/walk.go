package transfer

import (
	"context"
	"errors"

	"github.com/quarryfs/quarry"
)

// ErrSkipDir is what the function given to [Walk] returns for a directory whose entries it does not want.
var ErrSkipDir = errors.New("the directory is passed over")

// Walk calls do for what is at a path and everything below it, each directory before its entries,
// these in the order of their names' bytes; depth is 0 for the path itself. What was removed
// meanwhile is passed over. An error of do ends the walk and is returned, but for ErrSkipDir.
func Walk(ctx context.Context, t Tree, path string, do func(e Entry, depth int) error) error {
	e, err := t.Stat(ctx, path)
	if err != nil {
		return err
	}
	return walk(ctx, t, e, 0, do)
}

func walk(ctx context.Context, t Tree, e Entry, depth int, do func(e Entry, depth int) error) error {
	err := do(e, depth)
	if errors.Is(err, ErrSkipDir) {
		return nil
	}
	if err != nil || e.Kind != Dir {
		return err
	}
	for below, err := range t.List(ctx, e.Path) {
		if depth > 0 && quarry.KindOf(err) == quarry.NotFound {
			return nil
		}
		if err == nil {
			err = walk(ctx, t, below, depth+1, do)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
