package secure_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/rpc"
	"github.com/quarryfs/quarry/rpc/rpctest"
	"github.com/quarryfs/quarry/rpc/secure"
)

// secured returns a network under TLS, as the process with these files has it.
func secured(t testing.TB, under rpc.Network, files secure.Files) rpc.Network {
	t.Helper()
	n, err := secure.Network(under, files)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestTLSNetworks(t *testing.T) {
	a := rpctest.NewAuthority(t)
	t.Run("TCP", func(t *testing.T) {
		rpctest.Run(t, "127.0.0.1:0", func(t *testing.T) (rpc.Network, rpc.Network) {
			return secured(t, rpc.TCP, a.Issue(t.TempDir(), "client", time.Hour)), secured(t, rpc.TCP, a.Issue(t.TempDir(), "127.0.0.1", time.Hour))
		})
	})
	t.Run("Memory", func(t *testing.T) {
		rpctest.Run(t, "here:0", func(t *testing.T) (rpc.Network, rpc.Network) {
			n := secured(t, rpc.NewMemory(), a.Issue(t.TempDir(), "here", time.Hour))
			return n, n
		})
	})
}

// reader is a chunk server that has a file of one chunk.
type reader struct {
	quarry.ChunkServer
	file *os.File
	size int64
}

func (r *reader) Read(context.Context, *quarry.ReadRequest) (*quarry.ReadReply, error) {
	return &quarry.ReadReply{File: &quarry.FileRange{FD: r.file.Fd(), Length: r.size}}, nil
}

func (r *reader) Append(_ context.Context, req *quarry.AppendRequest, done func(*quarry.AppendReply, error)) {
	done(&quarry.AppendReply{Offset: int64(len(req.Data))}, nil)
}

// world is a server under TLS, or without it.
type world struct {
	t       *testing.T
	address string
	size    int64
}

func newWorld(t *testing.T, n rpc.Network) *world {
	file, err := os.Create(filepath.Join(t.TempDir(), "chunk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	w := &world{t: t, size: 1<<20 - 12345}
	if _, err := file.Write(bytes.Repeat([]byte("abc"), int(w.size/3))); err != nil {
		t.Fatal(err)
	}
	s := rpc.NewServer(rpc.ServerConfig{Clock: clock.System(), Identity: func() rpc.Identity { return rpc.Identity{Role: rpc.RoleChunkServer} }})
	rpc.ServeChunkServer(s, &reader{file: file, size: w.size / 3 * 3})
	l, err := n.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.address = l.Address()
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return w
}

// call reads all of the chunk, and appends a large record, over connections of its own.
func (w *world) call(n rpc.Network) error {
	c := rpc.NewClient(rpc.ClientConfig{Network: n, Clock: clock.System(), Identity: func() rpc.Identity { return rpc.Identity{Role: rpc.RoleClient} }})
	defer c.Close()
	into := make([]byte, w.size)
	reply, err := c.ChunkServer(w.address).Read(w.t.Context(), &quarry.ReadRequest{Into: into, Length: w.size})
	if err != nil {
		return err
	}
	if n := w.size / 3 * 3; int64(len(reply.Data)) != n || !bytes.Equal(reply.Data, bytes.Repeat([]byte("abc"), int(w.size/3))) {
		w.t.Errorf("%d bytes were read, %d are there, or they differ", len(reply.Data), n)
	}
	done := make(chan error, 1)
	record := make([]byte, 3<<20)
	c.ChunkServer(w.address).Append(w.t.Context(), &quarry.AppendRequest{Data: record, Session: 1, Sequence: 1, Oldest: 1}, func(r *quarry.AppendReply, err error) {
		if err == nil && r.Offset != int64(len(record)) {
			err = errors.New("the record came in part")
		}
		done <- err
	})
	return <-done
}

func TestTLSCalls(t *testing.T) {
	a := rpctest.NewAuthority(t)
	w := newWorld(t, secured(t, rpc.TCP, a.Issue(t.TempDir(), "127.0.0.1", time.Hour)))
	// Somebody connects and says nothing: nobody has to wait for him.
	silent, err := net.Dial("tcp", w.address)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if err := w.call(secured(t, rpc.TCP, a.Issue(t.TempDir(), "anybody", time.Hour))); err != nil {
		t.Error(err)
	}
}

// TestTLSRefuses: who cannot be trusted is refused, by either side, and both are told why.
func TestTLSRefuses(t *testing.T) {
	a, stranger := rpctest.NewAuthority(t), rpctest.NewAuthority(t)
	issue := func(a *rpctest.Authority, host string, good time.Duration) rpc.Network {
		return secured(t, rpc.TCP, a.Issue(t.TempDir(), host, good))
	}
	mixed := func() rpc.Network { // shows the stranger's certificate, and trusts the authority
		files := stranger.Issue(t.TempDir(), "client", time.Hour)
		files.Authority = a.Issue(t.TempDir(), "client", time.Hour).Authority
		return secured(t, rpc.TCP, files)
	}
	client, server := issue(a, "client", time.Hour), issue(a, "127.0.0.1", time.Hour)
	for _, c := range []struct {
		name           string
		client, server rpc.Network
		want           string
	}{
		{"a client of another authority", mixed(), server, "unknown certificate authority"},
		{"a client that is out of date", issue(a, "client", -time.Hour), server, "expired certificate"},
		{"a server of another authority", client, issue(stranger, "127.0.0.1", time.Hour), "unknown authority"},
		{"a server that is out of date", client, issue(a, "127.0.0.1", -time.Hour), "expired"},
		{"a server at another host", client, issue(a, "127.0.0.2", time.Hour), "valid for 127.0.0.2, not 127.0.0.1"},
		{"a client without TLS", rpc.TCP, server, "takes connections under TLS only"},
		{"a server without TLS", client, rpc.TCP, "does not use TLS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.server)
			err := w.call(c.client)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is %v; want %q in it", err, c.want)
			}
		})
	}
}

// TestTLSFiles: files that will not do are refused by name.
func TestTLSFiles(t *testing.T) {
	a := rpctest.NewAuthority(t)
	for _, c := range []struct {
		name  string
		spoil func(*secure.Files)
		kind  quarry.Kind
	}{
		{"no key", func(f *secure.Files) { f.Key = "" }, quarry.Invalid},
		{"no such certificate", func(f *secure.Files) { f.Certificate += "x" }, quarry.Invalid},
		{"another key", func(f *secure.Files) { f.Key = a.Issue(t.TempDir(), "x", time.Hour).Key }, quarry.Invalid},
		{"an open key", func(f *secure.Files) { os.Chmod(f.Key, 0o644) }, quarry.Permission},
		{"an empty authority", func(f *secure.Files) { os.Truncate(f.Authority, 0) }, quarry.Invalid},
		{"a folder", func(f *secure.Files) { f.Authority = filepath.Dir(f.Key) }, quarry.Invalid},
		{"a large file", func(f *secure.Files) { os.Truncate(f.Authority, 2<<20) }, quarry.Invalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := a.Issue(t.TempDir(), "x", time.Hour)
			c.spoil(&files)
			if _, err := secure.Network(rpc.TCP, files); quarry.KindOf(err) != c.kind {
				t.Errorf("the error is %v; want kind %v", err, c.kind)
			}
		})
	}
}

// TestTLSRenewal: certificates are replaced while the process runs, and while the files do not fit
// together the old ones serve on.
func TestTLSRenewal(t *testing.T) {
	a, next := rpctest.NewAuthority(t), rpctest.NewAuthority(t)
	dir, from := t.TempDir(), t.TempDir()
	w := newWorld(t, secured(t, rpc.TCP, a.Issue(dir, "127.0.0.1", time.Hour)))
	client, renewed := secured(t, rpc.TCP, a.Issue(t.TempDir(), "x", time.Hour)), secured(t, rpc.TCP, next.Issue(t.TempDir(), "x", time.Hour))
	if err := w.call(client); err != nil {
		t.Fatal(err)
	}
	next.Issue(from, "127.0.0.1", time.Hour)
	for i, name := range []string{"cert.pem", "key.pem", "ca.pem"} {
		content, err := os.ReadFile(filepath.Join(from, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), append(content, '\n'), 0o600) // another size, should the time be the same
		}
		if err != nil {
			t.Fatal(err)
		}
		err = w.call(client)
		if i == 0 && err != nil || i == 2 && err == nil { // between them a whole pair of the next authority serves
			t.Errorf("with %s replaced a client of the old authority gets %v", name, err)
		}
	}
	if err := w.call(renewed); err != nil {
		t.Errorf("with all files replaced: %v", err)
	}
}

// BenchmarkTLS sends 64 MiB over a connection, with and without TLS.
func BenchmarkTLS(b *testing.B) {
	a := rpctest.NewAuthority(b)
	for name, n := range map[string]rpc.Network{"plain": rpc.TCP, "tls": secured(b, rpc.TCP, a.Issue(b.TempDir(), "127.0.0.1", time.Hour))} {
		b.Run(name, func(b *testing.B) {
			l, err := n.Listen("127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			b.SetBytes(64 << 20)
			block, into := make([]byte, 256<<10), make([]byte, 256<<10)
			for b.Loop() {
				sent := make(chan error, 1)
				go func() {
					c, err := l.Accept()
					for i := 0; err == nil && i < 256; i++ {
						_, err = c.Write(block)
					}
					if err == nil {
						err = c.Close()
					}
					sent <- err
				}()
				c, err := n.Dial(b.Context(), l.Address())
				for err == nil {
					_, err = io.ReadFull(c, into)
				}
				c.Close()
				if other := <-sent; err != io.EOF || other != nil {
					b.Fatal(err, other)
				}
			}
		})
	}
}
