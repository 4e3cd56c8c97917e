//go:build !mutant

package main

import "github.com/quarryfs/quarry/disk"

// serverFolder opens the folders of servers.
func serverFolder(dir string) (disk.FS, error) { return disk.Open(dir) }
