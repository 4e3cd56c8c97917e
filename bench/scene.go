package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/cluster"
)

const (
	// removingTime is how long it may take to remove what a running cluster was given.
	removingTime = time.Minute
	// roomTime is how long it may take until the chunk servers are told to drop what was removed, and
	// roomEvery how often they are asked for room meanwhile.
	roomTime  = 30 * time.Second
	roomEvery = 100 * time.Millisecond
)

// scene is where loads work: an embedded cluster on real disks and loopback sockets, or a running
// one, with a client of it, and a folder for the bare programs.
type scene struct {
	servers int
	masters []string
	root    string // the directory of everything in the cluster
	fs      *client.FS
	dev     *cluster.Dev // the embedded cluster; nil: it is a running one
	dir     string       // its folder
	bare    string       // that of the bare programs
	team    *team        // the clients, if they are in processes of their own
	single  *scene       // the same without group commit, if it is wanted
}

// at returns the scene with so many chunk servers: that of before, if it has as many.
func (b *run) at(ctx context.Context, servers int, l load) (*scene, error) {
	if b.scene != nil && b.scene.servers == servers {
		return b.scene, nil
	}
	if err := b.close(); err != nil {
		return nil, err
	}
	var err error
	if len(b.Masters) > 0 {
		b.scene, err = b.running(ctx, servers)
	} else {
		b.Progress(fmt.Sprintf("starting a cluster of %d chunk servers", servers))
		b.scene, err = b.embedded(ctx, "cluster", servers, false)
	}
	if err != nil {
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
	return s.close(b)
}

// embedded starts a cluster of three masters in this process. single switches group commit off.
func (b *run) embedded(ctx context.Context, name string, servers int, single bool) (*scene, error) {
	s := &scene{servers: servers, root: "/bench", dir: filepath.Join(b.Dir, name), bare: filepath.Join(b.Dir, "bare")}
	var err error
	s.dev, err = cluster.StartDev(ctx, cluster.DevOptions{
		Common: cluster.Common{Listen: "127.0.0.1:0", Logger: b.Log, TLS: b.TLS}, Dir: s.dir, Masters: 3, Servers: servers, Shards: 1, SingleRecords: single,
	})
	if err != nil {
		return nil, err
	}
	return s, b.enter(ctx, s, s.dev.Masters)
}

// running goes to the cluster that the user has, and works in a directory that nobody else has.
func (b *run) running(ctx context.Context, servers int) (*scene, error) {
	s := &scene{servers: servers, root: fmt.Sprintf("/quarry-bench-%016x", rand.Uint64()), bare: filepath.Join(b.Dir, "bare")}
	return s, b.enter(ctx, s, b.Masters)
}

// enter opens a client of the scene's cluster and makes the directory of everything. Also if it
// fails, the scene has to be closed.
func (b *run) enter(ctx context.Context, s *scene, masters []string) (err error) {
	s.masters = masters
	if s.fs, err = b.open(ctx, masters); err == nil {
		err = s.fs.Mkdir(ctx, s.root)
	}
	if err == nil && b.Processes > 1 {
		s.team, err = b.hire(ctx, masters)
	}
	return err
}

// open opens a client of a cluster.
func (b *run) open(ctx context.Context, masters []string) (*client.FS, error) {
	network, err := b.network()
	if err != nil {
		return nil, err
	}
	return client.Open(ctx, masters, client.Options{Key: b.Key, Log: b.Log, Network: network, NetworkOnly: !b.Local})
}

// close ends the scene and leaves nothing behind, also after the run was interrupted.
func (s *scene) close(b *run) error {
	var errs []error
	if s.single != nil {
		errs = append(errs, s.single.close(b))
	}
	_ = s.team.dismiss() // who was killed because something failed is no further failure
	if s.fs != nil {
		if s.dev == nil {
			ctx, cancel := b.clock.WithTimeout(context.Background(), removingTime)
			if err := s.fs.RemoveAllNow(ctx, s.root); err != nil {
				errs = append(errs, quarry.Errorf("bench", quarry.KindOf(err), s.root, "it could not be removed; say \"quarry rm --recursive --now %s\": %w", s.root, err))
			}
			cancel()
		}
		errs = append(errs, s.fs.Close())
	}
	if s.dev != nil {
		_ = s.dev.Close() // it is thrown away
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(append(errs, os.RemoveAll(s.bare))...)
}

// makeRoom waits until there is room for a round that writes so many bytes. What the rounds before it wrote is
// removed, but the chunk servers of an embedded cluster hear of it some seconds later, and keep it until its space is wanted.
func (b *run) makeRoom(ctx context.Context, s *scene, bytes int64) error {
	if s.dev == nil {
		return nil
	}
	for end := b.clock.Now().Add(roomTime); ; {
		made, err := s.dev.MakeRoom(ctx, bytes)
		if err == nil && s.single != nil && made {
			made, err = s.single.dev.MakeRoom(ctx, bytes)
		}
		switch {
		case made || err != nil:
			return err
		case b.clock.Now() >= end:
			return quarry.Errorf("bench", quarry.NoSpace, b.Dir, "a run writes about %d MiB, for which the disk has no room: name another one by --dir, or measure less", bytes>>20)
		}
		if err := b.clock.Sleep(ctx, roomEvery); err != nil {
			return err
		}
	}
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
