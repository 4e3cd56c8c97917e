package rpc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/rpc/buffers"
)

func benchEnv(b *testing.B) *env {
	return newEnvOn(b, TCP, "127.0.0.1:0",
		func(c *ServerConfig) { c.Clock = clock.System() }, func(c *ClientConfig) { c.Clock = clock.System() })
}

// cpuTime returns the time that the process has spent on the processors.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// share runs b.N calls of fn by a number of goroutines and reports the CPU time of each.
func share(b *testing.B, callers int, fn func(caller int) error) {
	b.Helper()
	var next atomic.Int64
	done := make(chan error, callers)
	start := cpuTime()
	b.ResetTimer()
	for i := range callers {
		go func() {
			for next.Add(1) <= int64(b.N) {
				if err := fn(i); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range callers {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64((cpuTime()-start).Nanoseconds())/float64(b.N)/1000, "cpu-us/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}

func BenchmarkSmallCall(b *testing.B) {
	e := benchEnv(b)
	ServeChunkServer(e.server, &fakeServer{end: func(_ context.Context, q *quarry.EndRequest) (*quarry.EndReply, error) {
		return &quarry.EndReply{Commit: int64(q.Handle)}, nil
	}})
	e.serve()
	server := e.client.ChunkServer(e.address)
	for _, callers := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			b.ReportAllocs()
			ctx, cancel := context.WithTimeout(b.Context(), time.Hour)
			defer cancel()
			share(b, callers, func(i int) error {
				r, err := server.End(ctx, &quarry.EndRequest{ChunkRef: quarry.ChunkRef{Handle: quarry.Handle(i), Version: 3, Target: 77}})
				if err == nil && r.Commit != int64(i) {
					err = errors.New("the answer to another question")
				}
				return err
			})
		})
	}
}

func BenchmarkAppend(b *testing.B) {
	e := benchEnv(b)
	ServeChunkServer(e.server, &fakeServer{append: func(_ context.Context, q *quarry.AppendRequest, done func(*quarry.AppendReply, error)) {
		done(&quarry.AppendReply{Offset: int64(len(q.Data))}, nil)
	}})
	e.serve()
	server := e.client.ChunkServer(e.address)
	for _, size := range []int{100, 4 << 10, 256 << 10} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			data := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			window := make(chan struct{}, 64)
			start := cpuTime()
			for b.Loop() {
				window <- struct{}{}
				server.Append(b.Context(), &quarry.AppendRequest{Data: data, Session: 5, Sequence: 6, CRCs: []uint32{1}}, func(_ *quarry.AppendReply, err error) {
					if err != nil {
						b.Error(err)
					}
					<-window
				})
			}
			for range cap(window) {
				window <- struct{}{}
			}
			b.ReportMetric(float64((cpuTime()-start).Nanoseconds())/float64(b.N)/1000, "cpu-us/op")
		})
	}
}

const fileBytes = 64 << 20

// BenchmarkRead compares reads of a warm file with a bare copy of the same bytes over TCP:
// a request of 8 bytes, a reply of a length and the bytes.
func BenchmarkRead(b *testing.B) {
	path := filepath.Join(b.TempDir(), "chunk")
	if err := os.WriteFile(path, make([]byte, fileBytes), 0o644); err != nil {
		b.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()

	ways := map[string]func(q *quarry.ReadRequest) (*quarry.ReadReply, error){
		"sendfile": func(q *quarry.ReadRequest) (*quarry.ReadReply, error) {
			return &quarry.ReadReply{CRCs: make([]uint32, 16), File: &quarry.FileRange{FD: file.Fd(), Offset: q.Offset, Length: q.Length}}, nil
		},
		"pread": func(q *quarry.ReadRequest) (*quarry.ReadReply, error) {
			buf := buffers.Get(int(q.Length))
			_, err := file.ReadAt(buf, q.Offset)
			return &quarry.ReadReply{CRCs: make([]uint32, 16), Data: buf, Release: func() { buffers.Put(buf) }}, err
		},
	}
	for _, size := range []int64{4 << 10, 64 << 10, 1 << 20} {
		for _, streams := range []int{1, 4, 16} {
			for _, way := range []string{"sendfile", "pread"} {
				b.Run(fmt.Sprintf("size=%dK/streams=%d/%s", size>>10, streams, way), func(b *testing.B) {
					e := benchEnv(b)
					ServeChunkServer(e.server, &fakeServer{read: func(_ context.Context, q *quarry.ReadRequest) (*quarry.ReadReply, error) {
						return ways[way](q)
					}})
					e.serve()
					defer e.close()
					server := e.client.ChunkServer(e.address)
					buffers := make([][]byte, streams)
					for i := range buffers {
						buffers[i] = make([]byte, size)
					}
					b.SetBytes(size)
					var at atomic.Int64
					share(b, streams, func(i int) error {
						q := &quarry.ReadRequest{Offset: at.Add(size) % (fileBytes - size), Length: size, Into: buffers[i]}
						r, err := server.Read(b.Context(), q)
						if err == nil && (len(r.Data) != int(size) || &r.Data[0] != &buffers[i][0]) {
							err = errors.New("the bytes are not where they should be")
						}
						return err
					})
				})
			}
			b.Run(fmt.Sprintf("size=%dK/streams=%d/bare", size>>10, streams), func(b *testing.B) {
				b.SetBytes(size)
				bareRead(b, file, size, streams)
			})
		}
	}
}

// bareRead is the least that a remote read can cost.
func bareRead(b *testing.B, file *os.File, size int64, streams int) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				conn, _ := newTCPConn(c.(*net.TCPConn))
				request, header := make([]byte, 8), make([]byte, 8)
				for {
					if _, err := io.ReadFull(c, request); err != nil {
						return
					}
					binary.LittleEndian.PutUint64(header, uint64(size))
					if err := sendFile(conn, header, quarry.FileRange{FD: file.Fd(), Offset: int64(binary.LittleEndian.Uint64(request)), Length: size}); err != nil {
						return
					}
				}
			}()
		}
	}()
	conns, buffers := make([]net.Conn, streams), make([][]byte, streams)
	for i := range conns {
		if conns[i], err = net.Dial("tcp", l.Addr().String()); err != nil {
			b.Fatal(err)
		}
		defer conns[i].Close()
		buffers[i] = make([]byte, size)
	}
	var at atomic.Int64
	share(b, streams, func(i int) error {
		var request, header [8]byte
		binary.LittleEndian.PutUint64(request[:], uint64(at.Add(size)%(fileBytes-size)))
		if _, err := conns[i].Write(request[:]); err != nil {
			return err
		}
		if _, err := io.ReadFull(conns[i], header[:]); err != nil {
			return err
		}
		_, err := io.ReadFull(conns[i], buffers[i])
		return err
	})
}
