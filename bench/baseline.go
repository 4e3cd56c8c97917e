package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"github.com/quarryfs/quarry"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	copyRequestBytes = 1 << 20 // one request of the framed copy
	copyHeaderBytes  = 32
	copySyncBytes    = 8 << 20 // the local copies are synced every so many bytes, as a stream is
)

// framed serves a file over loopback TCP and has each stream fetch parts of it by a connection of
// its own: one request in flight, answered with a header of 32 bytes and the bytes by sendfile.
// Nothing is checked and nothing is copied that need not be: the least that a remote read costs.
func framed(ctx context.Context, file string, streams int, fetch func(k int, conn net.Conn) error) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer ln.Close()
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	for k := range streams {
		g.Go(func() error {
			conn, err := ln.Accept()
			if err != nil {
				return err
			}
			defer conn.Close()
			return framedServe(conn.(*net.TCPConn), file)
		})
		g.Go(func() error {
			conn, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				return err
			}
			defer conn.Close()
			return fetch(k, conn)
		})
	}
	return g.Wait()
}

// framedCopy has each stream fetch a file from its beginning, 1 MiB at a time.
func framedCopy(ctx context.Context, file string, streams int, bytesPerStream int64) error {
	return framed(ctx, file, streams, func(_ int, conn net.Conn) error {
		buf := make([]byte, copyRequestBytes)
		for done := int64(0); done < bytesPerStream; {
			n := min(bytesPerStream-done, copyRequestBytes)
			if err := framedFetch(conn, buf[:n], done); err != nil {
				return err
			}
			done += n
		}
		return nil
	})
}

func framedServe(conn *net.TCPConn, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	var header [copyHeaderBytes]byte
	for {
		if _, err := io.ReadFull(conn, header[:]); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		offset, n := binary.LittleEndian.Uint64(header[:]), binary.LittleEndian.Uint64(header[8:])
		if _, err := f.Seek(int64(offset), io.SeekStart); err != nil {
			return err
		}
		if _, err := conn.Write(header[:]); err != nil {
			return err
		}
		if _, err := io.CopyN(conn, f, int64(n)); err != nil {
			return err
		}
	}
}

func framedFetch(conn net.Conn, buf []byte, offset int64) error {
	var header [copyHeaderBytes]byte
	binary.LittleEndian.PutUint64(header[:], uint64(offset))
	binary.LittleEndian.PutUint64(header[8:], uint64(len(buf)))
	if _, err := conn.Write(header[:]); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, header[:]); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, buf)
	return err
}

// localReads reads a file in each stream, from its beginning, with pread of 1 MiB into the same
// memory: the least that a read costs whose bytes are in the memory of this machine.
func localReads(ctx context.Context, file string, streams int, bytesPerStream int64) error {
	g, ctx := errgroup.WithContext(ctx)
	for range streams {
		g.Go(func() error {
			f, err := os.Open(file)
			if err != nil {
				return err
			}
			defer f.Close()
			buf := make([]byte, copyRequestBytes)
			for done := int64(0); done < bytesPerStream; done += copyRequestBytes {
				if _, err := f.ReadAt(buf[:min(copyRequestBytes, bytesPerStream-done)], done); err != nil {
					return err
				}
				if err := ctx.Err(); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// localCopies writes each stream of bytes as so many copies in chunk files of 64 MiB, as one
// process could: packet by packet into all of them; every 8 MiB all are synced, side by
// side, while the next 8 MiB are written.
func localCopies(ctx context.Context, dir string, streams, copies int, bytesPerStream int64) error {
	g, ctx := errgroup.WithContext(ctx)
	for s := range streams {
		g.Go(func() error {
			for chunk := int64(0); chunk*quarry.ChunkBytesMax < bytesPerStream; chunk++ {
				n := min(quarry.ChunkBytesMax, bytesPerStream-chunk*quarry.ChunkBytesMax)
				name := filepath.Join(dir, fmt.Sprintf("local-%d-%d", s, chunk))
				if err := localChunk(ctx, name, copies, n); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func localChunk(ctx context.Context, name string, copies int, n int64) error {
	packet := make([]byte, quarry.PacketBytes)
	fillPattern(packet, 1)
	files := make([]*os.File, copies)
	for i := range files {
		f, err := os.Create(fmt.Sprintf("%s.%d", name, i))
		if err != nil {
			return err
		}
		defer f.Close()
		files[i] = f
	}
	var syncs errgroup.Group
	for done, synced := int64(0), int64(0); done < n; {
		part := packet[:min(n-done, quarry.PacketBytes)]
		for _, f := range files {
			if _, err := f.Write(part); err != nil {
				return err
			}
		}
		done += int64(len(part))
		if done-synced < copySyncBytes && done < n {
			continue
		}
		if err := syncs.Wait(); err != nil {
			return err
		}
		syncs = errgroup.Group{}
		for _, f := range files {
			syncs.Go(func() error { return unix.Fdatasync(int(f.Fd())) })
		}
		synced = done
		if err := ctx.Err(); err != nil {
			break
		}
	}
	return errors.Join(syncs.Wait(), ctx.Err())
}

// localSmall writes a small file as so many copies, synced side by side.
func localSmall(name string, copies int, content []byte) error {
	var g errgroup.Group
	for i := range copies {
		g.Go(func() error {
			f, err := os.Create(fmt.Sprintf("%s.%d", name, i))
			if err != nil {
				return err
			}
			if _, err = f.Write(content); err == nil {
				err = f.Sync()
			}
			return errors.Join(err, f.Close())
		})
	}
	return g.Wait()
}

// fillPattern fills b with bytes that do not compress and depend on seed only.
func fillPattern(b []byte, seed uint64) {
	x := seed*0x9e3779b97f4a7c15 + 1
	for i := 0; i+8 <= len(b); i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(b[i:], x)
	}
}
