package bench

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"

	"github.com/quarryfs/quarry/client"
)

// read is sequential reads of one file by each stream, against the framed copy of the same bytes,
// or, of files on this machine, against pread.
func (b *run) read() load {
	l, least := load{name: b.named("read"), prepare: b.readable}, framedCopy
	if b.Local {
		least = localReads
	}
	l.phases = []phase{{
		work: func(ctx context.Context, fs *client.FS, r round, _ int, t *tally) error {
			err := readAll(ctx, fs, r.Root+"/read")
			if err == nil {
				t.count("", 1, b.Bytes)
			}
			return err
		},
		bare: func(ctx context.Context, s *scene, r round, t *tally) error {
			t.count("", int64(r.Clients), b.Bytes*int64(r.Clients))
			return least(ctx, s.bareRead(), r.Clients, b.Bytes)
		},
	}}
	return l
}

// random is reads at random places of one file, against the framed copy of as many bytes there.
func (b *run) random() load {
	return load{name: b.named("random"), prepare: b.readable, phases: []phase{{
		unit: "reads",
		work: func(ctx context.Context, fs *client.FS, r round, k int, t *tally) error {
			f, err := fs.Open(ctx, r.Root+"/read")
			if err != nil {
				return err
			}
			defer f.Close()
			at, buf := newPlaces(k, b.Bytes, r.RecordBytes), make([]byte, r.RecordBytes)
			for range share(b.operations(r), r.Clients, k) {
				err := t.time("", int64(len(buf)), func() error {
					_, err := f.ReadAtContext(ctx, buf, at())
					return err
				})
				if err != nil {
					return err
				}
			}
			return nil
		},
		bare: func(ctx context.Context, s *scene, r round, t *tally) error {
			return framed(ctx, s.bareRead(), r.Clients, func(k int, conn net.Conn) error {
				at, buf := newPlaces(k, b.Bytes, r.RecordBytes), make([]byte, r.RecordBytes)
				for range share(b.operations(r), r.Clients, k) {
					if err := t.time("", int64(len(buf)), func() error { return framedFetch(conn, buf, at()) }); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}}}
}

// named adds to a load's name how it reads.
func (b *run) named(name string) string {
	if b.Cold {
		name += "-cold"
	}
	if b.Local {
		name += "-local"
	}
	return name
}

// newPlaces returns what draws the places of stream k's reads of n bytes in a file.
func newPlaces(k int, fileBytes int64, n int) func() int64 {
	r := rand.New(rand.NewPCG(uint64(k), 1))
	return func() int64 { return r.Int64N(max(fileBytes-int64(n), 0) + 1) }
}

// share is how many of n operations client k of several does.
func share(n, clients, k int) int { return (n + clients - 1 - k) / clients }

// readable writes what is to be read, into the cluster and for the bare program.
func (b *run) readable(ctx context.Context, s *scene) error {
	if _, err := s.fs.Put(ctx, s.root+"/read", newPattern(b.Bytes, 1), client.PutOptions{Size: b.Bytes}); err != nil {
		return err
	}
	if err := os.MkdirAll(s.bare, 0o755); err != nil {
		return err
	}
	return writeFile(s.bareRead(), newPattern(b.Bytes, 1))
}

// bareRead is the bare program's file to read.
func (s *scene) bareRead() string { return filepath.Join(s.bare, "read") }

// readAll reads a file from its beginning to its end.
func readAll(ctx context.Context, fs *client.FS, path string) error {
	f, err := fs.Open(ctx, path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for {
		_, err := io.ReadFull(f, buf)
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return nil
		default:
			return err
		}
	}
}

func writeFile(name string, r io.Reader) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if _, err = io.Copy(f, r); err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}
