//go:build mutant

package main

import (
	"context"
	"os"
	"time"

	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/disk"
)

// serverFolder opens the folders of servers in test builds: for as long as there is a file of the
// folder's name with ".hang" behind it, its disk answers nothing but reads.
func serverFolder(dir string) (disk.FS, error) {
	files, err := disk.Open(dir)
	if err != nil {
		return nil, err
	}
	return disk.NewFaulty(files, func(op disk.Op) disk.Fault {
		for op.Kind != disk.OpRead {
			if _, err := os.Stat(dir + ".hang"); err != nil {
				break
			}
			_ = clock.System().Sleep(context.Background(), 10*time.Millisecond) // such a context does not end
		}
		return disk.Fault{}
	}), nil
}
