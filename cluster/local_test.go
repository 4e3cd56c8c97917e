//go:build linux

package cluster_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/cluster"
	"github.com/quarryfs/quarry/rpc"
)

// near is a master, chunk servers that can be stopped each for itself, and a client.
type near struct {
	t       *testing.T
	ctx     context.Context
	dir     string
	masters []string
	servers map[string]*cluster.Process // by folder
	fs      *client.FS
}

func nearby(t *testing.T) *near {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	n := &near{t: t, ctx: ctx, dir: t.TempDir(), servers: map[string]*cluster.Process{}}
	common := cluster.Common{Listen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler), Key: []byte("a secret of sixteen bytes or more")}
	m, err := cluster.StartMaster(cluster.MasterOptions{Common: common, Dir: filepath.Join(n.dir, "master")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	n.masters = []string{m.Address}
	c := rpc.NewClient(rpc.ClientConfig{Network: rpc.TCP, Clock: clock.System(), Key: common.Key, Identity: func() rpc.Identity { return rpc.Identity{Role: rpc.RoleClient} }})
	defer c.Close()
	if _, err := cluster.Init(ctx, c, clock.System(), n.masters, 1); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		folder := filepath.Join(n.dir, fmt.Sprint("server-", i))
		p, err := cluster.StartChunkServer(ctx, cluster.ChunkServerOptions{Common: common, Dirs: []string{folder}, Masters: n.masters})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		n.servers[folder] = p
	}
	if n.fs, err = client.Open(ctx, n.masters, client.Options{Key: common.Key}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.fs.Close() })
	return n
}

// lent returns the files of chunks that this process, which is servers and client at once, has
// open for reading only: those that were lent.
func (n *near) lent() (names []string) {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		n.t.Fatal(err)
	}
	for _, fd := range fds {
		name, err := os.Readlink("/proc/self/fd/" + fd.Name())
		info, err2 := os.ReadFile("/proc/self/fdinfo/" + fd.Name())
		if err != nil || err2 != nil || !strings.HasPrefix(name, n.dir) || !strings.Contains(name, "/chunks/") && !strings.Contains(name, "/trash/") {
			continue
		}
		var pos, flags int64
		if _, err := fmt.Sscanf(string(info), "pos:%d\nflags:%o", &pos, &flags); err != nil {
			n.t.Fatal(err)
		}
		if flags&int64(os.O_WRONLY|os.O_RDWR) == 0 {
			names = append(names, name)
		}
	}
	return names
}

func (n *near) put(path string, data []byte) {
	n.t.Helper()
	if _, err := n.fs.Put(n.ctx, path, bytes.NewReader(data), client.PutOptions{Size: int64(len(data))}); err != nil {
		n.t.Fatal(err)
	}
}

func (n *near) open(path string) *client.File {
	n.t.Helper()
	f, err := n.fs.Open(n.ctx, path)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { f.Close() })
	return f
}

// readsBack reads a file in a row and at random places.
func (n *near) readsBack(f *client.File, data []byte) {
	n.t.Helper()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		n.t.Fatal(err)
	}
	got, buf := []byte(nil), make([]byte, 1<<20)
	for {
		k, err := f.Read(buf)
		got = append(got, buf[:k]...)
		if err == io.EOF {
			break
		}
		if err != nil {
			n.t.Fatal(err)
		}
	}
	if !bytes.Equal(got, data) {
		n.t.Fatalf("%d bytes read in a row are not the %d of the file", len(got), len(data))
	}
	for range 10 {
		p := make([]byte, 1+rand.IntN(len(data)))
		at := rand.IntN(len(data) - len(p) + 1)
		if _, err := f.ReadAt(p, int64(at)); err != nil {
			n.t.Fatal(err)
		}
		if !bytes.Equal(p, data[at:at+len(p)]) {
			n.t.Fatalf("%d bytes at %d are not those of the file", len(p), at)
		}
	}
}

// mustLend requires that reads came from a lent file, if files can be read so here, and returns it.
func (n *near) mustLend() string {
	n.t.Helper()
	names := n.lent()
	if len(names) == 0 {
		n.t.Fatal("no file was lent")
	}
	return names[0]
}

// TestLocalReads reads replicas on this machine: what was put, and what is being appended.
func TestLocalReads(t *testing.T) {
	t.Parallel()
	n := nearby(t)
	data := randomBytes(9<<20+12345, 1)
	n.put("/put", data)
	n.readsBack(n.open("/put"), data)
	n.mustLend()
	w, err := n.fs.Create(n.ctx, "/log")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	log, lent := []byte(nil), len(n.lent())
	for i := range 10 {
		record := randomBytes(400<<10+i, uint64(i))
		if _, err := n.fs.Append(n.ctx, "/log", record); err != nil {
			t.Fatal(err)
		}
		log = append(log, record...)
		n.readsBack(n.open("/log"), log)
	}
	if len(n.lent()) <= lent {
		t.Error("the file of an open chunk was not lent")
	}
	network, err := client.Open(n.ctx, n.masters, client.Options{Key: []byte("a secret of sixteen bytes or more"), NetworkOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer network.Close()
	n.fs.Close()
	if names := n.lent(); len(names) > 0 {
		t.Errorf("a client that was closed has %v open", names)
	}
	n.fs = network
	n.readsBack(n.open("/put"), data)
	if names := n.lent(); len(names) > 0 {
		t.Errorf("a client of the network has %v open", names)
	}
}

// TestLocalRot breaks bytes of the file that is being read: the bytes that come are right, the
// replica is reported, and another one takes its place.
func TestLocalRot(t *testing.T) {
	t.Parallel()
	n := nearby(t)
	data := randomBytes(4<<20, 2)
	n.put("/rot", data)
	f := n.open("/rot")
	n.readsBack(f, data)
	name := n.mustLend()
	before := rot(t, name, data, 3<<20)
	for { // until the copy is there
		n.readsBack(f, data)
		if now, err := os.Stat(name); err == nil && !os.SameFile(before, now) {
			break
		}
		if n.ctx.Err() != nil {
			t.Fatal("the replica was not replaced")
		}
	}
	n.readsBack(f, data)
}

// rot turns the bits of one byte of a file over, which has these data, and returns which file it is.
func rot(t *testing.T, name string, data []byte, at int64) os.FileInfo {
	t.Helper()
	before, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	w, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteAt([]byte{^data[at]}, at); err != nil {
		t.Fatal(err)
	}
	w.Close()
	return before
}

// TestLocalExchange has a replica come to be in another file while a client holds the one before, of
// which it has never seen the broken bytes: it takes the other one.
func TestLocalExchange(t *testing.T) {
	t.Parallel()
	n := nearby(t)
	data, p := randomBytes(4<<20, 5), make([]byte, 1<<20)
	n.put("/exchange", data)
	f := n.open("/exchange")
	reads := func() {
		t.Helper()
		if _, err := f.ReadAt(p, 0); err != nil || !bytes.Equal(p, data[:len(p)]) {
			t.Fatal("other bytes came", err)
		}
	}
	for reads(); len(n.lent()) == 0; reads() { // it may be slow at first
		if n.ctx.Err() != nil {
			t.Fatal("no file was lent")
		}
	}
	name := n.lent()[0]
	before := rot(t, name, data, 3<<20)
	fs := n.fs
	var err error
	if n.fs, err = client.Open(n.ctx, n.masters, client.Options{Key: []byte("a secret of sixteen bytes or more")}); err != nil {
		t.Fatal(err)
	}
	for other := n.open("/exchange"); ; { // until the copy is there, and lent
		n.readsBack(other, data)
		if now, err := os.Stat(name); err == nil && !os.SameFile(before, now) && slices.Contains(n.lent(), name) {
			break
		}
		if n.ctx.Err() != nil {
			t.Fatal("the replica was not replaced")
		}
	}
	n.fs.Close()
	n.fs = fs
	for names := n.lent(); !slices.Equal(names, []string{name}); names = n.lent() { // the server may be late
		reads()
		if n.ctx.Err() != nil {
			t.Fatalf("%v are read, the replica is in %s", names, name)
		}
	}
}

// TestLocalServerStops kills the server whose file is being read.
func TestLocalServerStops(t *testing.T) {
	t.Parallel()
	n := nearby(t)
	data := randomBytes(4<<20, 3)
	n.put("/kill", data)
	f := n.open("/kill")
	n.readsBack(f, data)
	name := n.mustLend()
	stopped := make(chan error, 1)
	for folder, p := range n.servers {
		if strings.HasPrefix(name, folder+"/") {
			go func() { stopped <- p.Abort() }()
		}
	}
	for over := false; !over; {
		select {
		case err := <-stopped:
			if err != nil {
				t.Error(err)
			}
			over = true
		default:
		}
		n.readsBack(f, data)
	}
	for elsewhere := false; !elsewhere; { // it may be slow at first
		n.readsBack(f, data)
		if n.ctx.Err() != nil {
			t.Fatal("no other server on this machine was asked for its file")
		}
		elsewhere = slices.ContainsFunc(n.lent(), func(next string) bool { return filepath.Dir(next) != filepath.Dir(name) })
	}
}

// TestLocalFileRemoved removes a file whose chunk is lent: who has it open reads its bytes as long as
// a server vouches for them, and is told that the file is gone when none does. It never reads others.
func TestLocalFileRemoved(t *testing.T) {
	t.Parallel()
	n := nearby(t)
	data := randomBytes(2<<20, 4)
	n.put("/gone", data)
	f := n.open("/gone")
	n.readsBack(f, data)
	n.mustLend()
	if err := n.fs.RemoveNow(n.ctx, "/gone"); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 1<<20)
	for {
		_, err := f.ReadAt(p, 1<<20)
		if quarry.KindOf(err) == quarry.NotFound {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p, data[1<<20:]) {
			t.Fatal("other bytes come from the file that was removed")
		}
	}
	for names := n.lent(); len(names) > 0; names = n.lent() { // a server may be later, or not be asked for a while
		if _, err := f.ReadAt(p, 1<<20); quarry.KindOf(err) != quarry.NotFound {
			t.Fatal(err)
		}
		if n.ctx.Err() != nil {
			t.Fatalf("%v are open, of which nobody vouches for a byte", names)
		}
	}
}
