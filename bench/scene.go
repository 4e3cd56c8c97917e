package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/cluster"
)

// scene is where loads work: an embedded cluster on real disks and loopback sockets, with a client
// of it, and a folder for the bare programs.
type scene struct {
	servers int
	root    string // the directory of everything in the cluster
	fs      *client.FS
	dev     *cluster.Dev
	dir     string // its folder
	bare    string // that of the bare programs
	single  *scene // the same without group commit, if it is wanted
}

// at returns the scene with so many chunk servers: that of before, if it has as many.
func (b *run) at(ctx context.Context, servers int, l load) (*scene, error) {
	if b.scene != nil && b.scene.servers == servers {
		return b.scene, nil
	}
	if err := b.close(); err != nil {
		return nil, err
	}
	b.Progress(fmt.Sprintf("starting a cluster of %d chunk servers", servers))
	var err error
	if b.scene, err = b.embedded(ctx, "cluster", servers, false); err != nil {
		return nil, err
	}
	if l.prepare != nil {
		b.Progress(l.name + ": preparing")
		if err := l.prepare(ctx, b.scene); err != nil {
			return nil, err
		}
	}
	return b.scene, nil
}

// close ends the present scene.
func (b *run) close() error {
	s := b.scene
	if b.scene = nil; s == nil {
		return nil
	}
	return s.close()
}

// embedded starts a cluster of three masters in this process. single switches group commit off.
func (b *run) embedded(ctx context.Context, name string, servers int, single bool) (*scene, error) {
	s := &scene{servers: servers, root: "/bench", dir: filepath.Join(b.Dir, name), bare: filepath.Join(b.Dir, "bare")}
	var err error
	s.dev, err = cluster.StartDev(ctx, cluster.DevOptions{
		Common: cluster.Common{Listen: "127.0.0.1:0", Logger: b.Log}, Dir: s.dir, Masters: 3, Servers: servers, Shards: 1, SingleRecords: single,
	})
	if err != nil {
		return nil, err
	}
	if s.fs, err = client.Open(ctx, s.dev.Masters, client.Options{Log: b.Log, NetworkOnly: !b.Local}); err == nil {
		err = s.fs.Mkdir(ctx, s.root)
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// close ends the scene and leaves nothing behind.
func (s *scene) close() error {
	var errs []error
	if s.single != nil {
		errs = append(errs, s.single.close())
	}
	if s.fs != nil {
		errs = append(errs, s.fs.Close())
	}
	_ = s.dev.Close() // it is thrown away
	return errors.Join(append(errs, os.RemoveAll(s.dir), os.RemoveAll(s.bare))...)
}

// forget empties the system's page cache of the files of the cluster and of the bare programs.
func (s *scene) forget() error {
	for _, dir := range []string{s.dir, s.bare} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				err = forgetFile(path)
			}
			if errors.Is(err, fs.ErrNotExist) { // it is gone meanwhile
				return nil
			}
			return err
		})
		if err != nil {
			return quarry.Errorf("bench", quarry.Internal, dir, "it cannot be taken out of the page cache: %w", err)
		}
	}
	return nil
}

func forgetFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil { // what is not on the disk cannot be forgotten
		return err
	}
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}
