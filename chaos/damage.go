package chaos

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// rotBits is how many bits of a replica turn over.
const rotBits = 3

// elsewhere returns the sealed chunks of all files that have a replica on a chunk server. It
// fails if one of them, or an open one, has no other replica: then nothing may be spoilt.
func (r *run) elsewhere(ctx context.Context, p *Process) (sealed []string, err error) {
	err = r.cluster.layouts(ctx, r.cfg.Workload.Root, func(c *quarry.Chunk) error {
		here, others := false, 0
		for _, m := range c.Members {
			if m.Address == p.Address {
				here = true
			} else {
				others++
			}
		}
		switch {
		case others == 0 || c.State != quarry.ChunkOpen && c.State != quarry.ChunkSealed:
			return errSpared
		case here && c.State == quarry.ChunkSealed && c.Length > 0 && others >= 2:
			sealed = append(sealed, c.Handle.String())
		}
		return nil
	})
	return sealed, err
}

// layouts shows every chunk of the files below a directory.
func (c *Cluster) layouts(ctx context.Context, dir string, chunk func(*quarry.Chunk) error) error {
	return c.walk(ctx, dir, func(e quarry.Attr) error {
		for offset := int64(0); ; {
			page, err := c.routed.Locate(ctx, &quarry.LocateRequest{File: e.Inode, Offset: offset, Max: quarry.PiecesMax})
			if quarry.KindOf(err) == quarry.NotFound { // it was removed meanwhile
				return nil
			}
			if err != nil {
				return err
			}
			for i := range page.Chunks {
				if err := chunk(&page.Chunks[i]); err != nil {
					return err
				}
			}
			if !page.More || len(page.Pieces) == 0 {
				return nil
			}
			last := page.Pieces[len(page.Pieces)-1]
			offset = last.Offset + last.Length
		}
	})
}

// rot turns bits over in a replica of a sealed chunk, behind the back of the server.
func (r *run) rot(ctx context.Context, p *Process, rng *rand.Rand) (*injury, error) {
	sealed, err := r.elsewhere(ctx, p)
	if err != nil {
		return nil, err
	}
	if len(sealed) == 0 {
		return nil, none("it has no replica at rest of which there are two others")
	}
	slices.Sort(sealed)
	handle := sealed[rng.IntN(len(sealed))]
	folder, err := disk.Open(p.Dir)
	if err != nil {
		return nil, err
	}
	dirs, err := folder.List("chunks")
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		name := path.Join("chunks", dir, handle)
		size, err := folder.Size(name)
		if err != nil || size == 0 {
			continue
		}
		f, err := folder.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		for range rotBits {
			var b [1]byte
			at := rng.Int64N(size)
			if _, err := f.ReadAt(b[:], at); err != nil {
				return nil, err
			}
			b[0] ^= 1 << rng.IntN(8)
			if _, err := f.WriteAt(b[:], at); err != nil {
				return nil, err
			}
		}
		return &injury{text: fmt.Sprintf("%d bits of chunk %s turn over on %s", rotBits, handle, p.Name), nodes: []string{p.Name}}, nil
	}
	return nil, none("the replica has gone")
}

// wipe takes a chunk server its disk. It comes back with an empty one, as a new server.
func (r *run) wipe(ctx context.Context, p *Process) (*injury, error) {
	if _, err := r.elsewhere(ctx, p); err != nil {
		return nil, err
	}
	p.Kill()
	if err := os.RemoveAll(p.Dir); err != nil {
		return nil, err
	}
	return &injury{p.Name + " loses its disk", []string{p.Name}, func(context.Context) error { return p.Start() }}, nil
}

// fill gives a chunk server a disk that has hardly any room left.
func (r *run) fill(p *Process, rng *rand.Rand) (*injury, error) {
	if err := p.stop(); err != nil {
		r.blame("a process does not stop", err.Error())
	}
	err := os.RemoveAll(filepath.Join(p.Dir, "trash")) // it would make room
	var used int64
	if err == nil {
		used, err = bytesOf(p.Dir)
	}
	if err == nil {
		quota := used + int64(1+rng.IntN(16))<<20
		err = p.Start("--quota", fmt.Sprint(quota))
	}
	if err != nil {
		return nil, err
	}
	return &injury{"the disk of " + p.Name + " is full", []string{p.Name}, func(context.Context) error {
		if err := p.stop(); err != nil {
			r.blame("a process does not stop", err.Error())
		}
		return p.Start()
	}}, nil
}

// bytesOf returns the length of all files below a folder.
func bytesOf(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}

// logs returns the ends of the logs of processes.
func logs(who []*Process) string {
	var b strings.Builder
	for _, p := range who {
		fmt.Fprintf(&b, "--- %s\n%s", p.Name, p.Log())
	}
	return b.String()
}
