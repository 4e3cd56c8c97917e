package lives

import (
	"context"
	"fmt"
	"hash/fnv"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
)

// Placing is a client whose directories live in slots all over the shards, as their paths say, so
// that most changes of names concern several.
type Placing struct {
	*FileSystem
	Seed uint64
}

// Mkdir makes a directory in a slot that follows from its path and the seed.
func (p Placing) Mkdir(ctx context.Context, path string) error {
	h := fnv.New32a()
	fmt.Fprint(h, p.Seed, path)
	return p.now().MkdirIn(ctx, path, quarry.Slot(h.Sum32()%quarry.Slots))
}

// Count returns how many directories, itself included, and files are below a directory.
func Count(ctx context.Context, files client.FileSystem, dir string) (dirs, named int64, err error) {
	infos, _, err := files.List(ctx, dir, "", quarry.ListMax)
	if err != nil {
		return 0, 0, err
	}
	dirs = 1
	for _, info := range infos {
		if !info.IsDir() {
			named++
			continue
		}
		below, files, err := Count(ctx, files, info.Path)
		if err != nil {
			return 0, 0, err
		}
		dirs, named = dirs+below, named+files
	}
	return dirs, named, nil
}
