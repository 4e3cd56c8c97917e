package test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
)

// TestStaleServerReturns kills a secondary in the middle of a stream of appends, lets the
// others go on, and brings it back. From its first moment on, no server answers a read of
// any chunk of the file with other bytes than the file has; and when it is the only one
// left, what cannot be read is refused.
func TestStaleServerReturns(t *testing.T) {
	s := newSystem(t, options{masterArgs: []string{"--dead-after", "10m"}}) // nothing is copied meanwhile
	const path = "/log"
	w, err := s.fs.Create(s.ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, 6<<20)
	rand.Read(noise)
	if _, err := w.Write(noise); err != nil {
		t.Fatal(err)
	}
	victim := victims(s, path, "secondary")[0]
	victim.signal(syscall.SIGSTOP) // it will lack what the others have when they are sealed
	if _, err := w.Write(noise[1:]); err != nil {
		t.Fatal(err)
	}
	if err := w.Sync(); err != nil { // in another chunk: this one was sealed without the victim
		t.Fatal(err)
	}
	victim.kill()
	if _, err := w.Write([]byte("the end")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	all := readAll(t, s, path)
	victim.start()
	var answered int
	s.eventually("the victim's return", time.Minute, func() bool {
		answered += askEveryone(t, s, path, all)
		_, code := s.run("", "admin", "status")
		return code == 0
	})
	answered += askEveryone(t, s, path, all)
	if answered == 0 {
		t.Error("nobody answered: the test tells nothing")
	}
	for _, p := range s.servers {
		if p != victim {
			p.signal(syscall.SIGSTOP)
			defer p.signal(syscall.SIGCONT)
		}
	}
	ctx, cancel := context.WithTimeout(s.ctx, 5*time.Second)
	defer cancel()
	if f, err := s.fs.Open(ctx, path); err == nil {
		got, err := io.ReadAll(f)
		if !bytes.HasPrefix(all, got) || err == nil && len(got) < len(all) {
			t.Errorf("from the server that returned alone %d bytes were read, not those of the file: %v", len(got), err)
		}
		f.Close()
	}
}

// askEveryone asks every server for every sealed chunk of a file, as a client would that took
// it for a replica, and returns how many gave all of it. What is answered must be the file's
// bytes, or the first of them.
func askEveryone(t *testing.T, s *system, path string, all []byte) (answered int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, 20*time.Second)
	defer cancel()
	st, err := s.conns.Master(s.leader().address).Status(ctx)
	if err != nil {
		return 0
	}
	chunks, offsets := s.sealed(path)
	for i, c := range chunks {
		want := all[offsets[i] : offsets[i]+c.Length]
		for _, server := range st.Servers {
			got, err := readReplica(ctx, s, &c, &server)
			switch {
			case !bytes.HasPrefix(want, got):
				t.Errorf("chunk %v at %s has other bytes, %d of %d", c.Handle, server.Address, len(got), len(want))
			case err == nil && len(got) == len(want):
				answered++
			case errors.Is(err, quarry.Corrupt):
				t.Errorf("chunk %v at %s: %v", c.Handle, server.Address, err)
			}
		}
	}
	return answered
}

// readReplica reads a sealed chunk at one server.
func readReplica(ctx context.Context, s *system, c *quarry.Chunk, server *quarry.ServerStatus) (all []byte, err error) {
	ref := quarry.ChunkRef{Handle: c.Handle, Version: c.Version, Target: server.Incarnation, Capability: c.Capability}
	for int64(len(all)) < c.Length {
		reply, err := s.conns.ChunkServer(server.Address).Read(ctx, &quarry.ReadRequest{
			ChunkRef: ref, Offset: int64(len(all)), Length: min(quarry.ReadBytesMax, c.Length-int64(len(all))), Validated: true,
		})
		if err != nil || len(reply.Data) == 0 {
			return all, err
		}
		all = append(all, reply.Data...)
	}
	return all, nil
}

// TestStoppedLeader stops the master that leads, has the others change names, and asks it
// for them the moment it goes on: it must not tell what was true before.
func TestStoppedLeader(t *testing.T) {
	s := newSystem(t, options{servers: 1})
	rounds := 2
	if long() {
		rounds = 20
	}
	for range rounds {
		if out, code := s.run("", "mkdir", "-p", "/before"); code != 0 {
			t.Fatal(out)
		}
		old := s.leader()
		old.signal(syscall.SIGSTOP)
		if out, code := s.run("", "mv", "/before", "/after"); code != 0 {
			t.Fatalf("mv while the leader is stopped: %s", out)
		}
		old.signal(syscall.SIGCONT)
		s.eventually("an answer of the old leader", time.Minute, func() bool {
			ctx, cancel := context.WithTimeout(s.ctx, 5*time.Second)
			defer cancel()
			_, err := s.conns.Master(old.address).Lookup(ctx, &quarry.LookupRequest{From: quarry.RootInode, Path: "before"})
			if err == nil {
				t.Error("the old leader tells of a name that is gone")
			}
			return err == nil || errors.Is(err, quarry.NotLeader) || errors.Is(err, quarry.NotFound)
		})
		if out, code := s.run("", "rm", "/after"); code != 0 {
			t.Fatal(out)
		}
	}
	s.healthy()
}

// TestPutSurvivesKills feeds "quarry put -" while processes are killed at 25, 50 and 75 % of
// what it has taken: the leader, a chunk server that is being written to, and both.
func TestPutSurvivesKills(t *testing.T) {
	s := newSystem(t, options{})
	source, err := toolchain()
	if err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(source)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		t.Fatal(err)
	}
	cmd := s.command("put", "-", "/put")
	pipe, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var fed atomic.Int64
	sum := sha256.New()
	finished := make(chan error, 1)
	go func() {
		_, err := io.Copy(pipe, io.TeeReader(in, io.MultiWriter(sum, counter{&fed})))
		finished <- errors.Join(err, pipe.Close(), cmd.Wait())
	}()
	var back []*process
	for i, kill := range []string{"leader", "server", "leader and server"} {
		s.eventually("progress", 2*time.Minute, func() bool { return fed.Load() >= info.Size()*int64(i+1)/4 })
		for _, p := range back {
			p.start()
		}
		back = nil
		if strings.Contains(kill, "server") {
			back = append(back, writing(s))
		}
		if strings.Contains(kill, "leader") {
			back = append(back, s.leader())
		}
		for _, p := range back {
			p.kill()
		}
		if len(finished) > 0 {
			t.Errorf("put had ended before the kill of %s", kill)
		}
		if out, code := s.run("", "stat", "/put"); code != 3 {
			t.Errorf("the file is to be seen before it is whole: exit code %d: %s", code, out)
		}
	}
	if err := <-finished; err != nil {
		t.Fatalf("put: %v\n%s", err, said.String())
	}
	for _, p := range back {
		p.start()
	}
	s.check("/put", [32]byte(sum.Sum(nil)))
	s.healthy()
}

// counter counts the bytes written to it.
type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// writing returns the running chunk server that wrote to a chunk last.
func writing(s *system) *process {
	s.t.Helper()
	var last time.Time
	var found *process
	for i, p := range s.servers {
		files, err := filepath.Glob(filepath.Join(s.dir, "s"+strconv.Itoa(i+1), "chunks", "*", "????????????????"))
		if err != nil {
			s.t.Fatal(err)
		}
		for _, name := range files {
			if info, err := os.Stat(name); err == nil && info.ModTime().After(last) {
				last, found = info.ModTime(), p
			}
		}
	}
	if found == nil {
		s.t.Fatal("no chunk server has written anything")
	}
	return found
}
