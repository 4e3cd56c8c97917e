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

// TestStaleServerReturns stops a member in the middle of a stream, lets the others go on, has
// it go on, and then kills it and starts it again. From its first moment on, no server answers
// a read of any chunk of the file with bytes that the file does not have there; and when it
// is the only one left, what cannot be read is refused.
func TestStaleServerReturns(t *testing.T) {
	t.Parallel()
	s := newSystem(t, options{})
	for _, member := range []string{"secondary", "primary"} { // one lacks bytes, the other has some too many
		t.Run(member, func(t *testing.T) {
			s.t = t
			staleReturns(t, s, "/"+member, member)
		})
	}
	s.t = t
}

func staleReturns(t *testing.T, s *system, path, member string) {
	victim, stale, all := staleMember(t, s, path, member)
	status := func() *quarry.StatusReply {
		ctx, cancel := context.WithTimeout(s.ctx, 30*time.Second)
		defer cancel()
		st, err := s.conns.Master(s.leader().address).Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	before := status()
	victim.signal(syscall.SIGCONT)
	for range 50 { // it does not know yet that it was given up
		askEveryone(t, s, stale, before, all)
	}
	victim.kill()
	victim.start()
	s.eventually("the victim's return", time.Minute, func() bool {
		answered := askEveryone(t, s, stale, status(), all)
		_, code := s.run("", "admin", "status")
		return code == 0 && answered >= 3 // all replicas of the sealed chunk
	})
	for _, p := range s.servers {
		if p != victim {
			p.signal(syscall.SIGSTOP)
			defer p.signal(syscall.SIGCONT)
		}
	}
	ctx, cancel := context.WithTimeout(s.ctx, 3*time.Second)
	defer cancel()
	if f, err := s.fs.Open(ctx, path); err == nil {
		got, err := io.ReadAll(f)
		if !bytes.HasPrefix(all, got) || err == nil && len(got) < len(all) {
			t.Errorf("from the server that returned alone %d bytes were read, not those of the file: %v", len(got), err)
		}
		f.Close()
	}
}

// staleMember writes a file and stops a member of its first chunk meanwhile. It returns the
// member, which stands still, the chunk, which was sealed without it, and the file's bytes.
func staleMember(t *testing.T, s *system, path, member string) (victim *process, stale quarry.Chunk, all []byte) {
	t.Helper()
	w, err := s.fs.Create(s.ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	stopped, written := make(chan struct{}), make(chan error, 1)
	var noise []byte // the writer's until it says written
	go func() {
		piece := make([]byte, 1<<20)
		for after := 0; after < 8; { // without a pause, and on for a while after the member stands still
			select {
			case <-stopped:
				after++
			default:
			}
			rand.Read(piece)
			noise = append(noise, piece...)
			if _, err := w.Write(piece); err != nil {
				written <- errors.Join(err, w.Close())
				return
			}
		}
		written <- w.Close()
	}()
	s.eventually("the beginning", time.Minute, func() bool {
		info, err := s.fs.Stat(s.ctx, path)
		return err == nil && info.Size() > 0
	})
	victim = victims(s, path, member)[0]
	victim.signal(syscall.SIGSTOP)
	t.Cleanup(func() { victim.signal(syscall.SIGCONT) }) // whatever fails, the next part has its server
	close(stopped)
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if all = readAll(t, s, path); !bytes.Equal(all, noise) {
		t.Error("with a member stopped the file reads back differently")
	}
	chunks, offsets := s.sealed(path)
	if len(chunks) == 0 || offsets[0] != 0 {
		t.Fatalf("the file has the sealed chunks %+v", chunks)
	}
	return victim, chunks[0], all
}

// askEveryone asks every server for the last bytes of a sealed chunk with which a file begins,
// as a client would that took it for a replica, and returns how many gave them. What is
// answered must be these bytes, or the first of them.
func askEveryone(t *testing.T, s *system, c quarry.Chunk, st *quarry.StatusReply, all []byte) (answered int) {
	t.Helper()
	from := max(0, c.Length-1<<20)
	want := all[from:c.Length]
	for _, server := range st.Servers {
		got, err := readReplica(s, &c, &server, from)
		switch {
		case !bytes.HasPrefix(want, got):
			t.Errorf("chunk %v has other bytes at %s than in the file: %d of %d", c.Handle, server.Address, len(got), len(want))
		case err == nil && len(got) == len(want):
			answered++
		case errors.Is(err, quarry.Corrupt):
			t.Errorf("chunk %v at %s: %v", c.Handle, server.Address, err)
		}
	}
	return answered
}

// readReplica reads all that a server has of a chunk from an offset on, and does not stop
// where the chunk should end.
func readReplica(s *system, c *quarry.Chunk, server *quarry.ServerStatus, from int64) (all []byte, err error) {
	ctx, cancel := context.WithTimeout(s.ctx, 10*time.Second)
	defer cancel()
	ref := quarry.ChunkRef{Handle: c.Handle, Version: c.Version, Target: server.Incarnation, Capability: c.Capability}
	for {
		reply, err := s.conns.ChunkServer(server.Address).Read(ctx, &quarry.ReadRequest{
			ChunkRef: ref, Offset: from + int64(len(all)), Length: quarry.ReadBytesMax, Validated: true,
		})
		if err != nil || len(reply.Data) == 0 {
			return all, err
		}
		all = append(all, reply.Data...)
	}
}

// TestStoppedLeader stops the master that leads, has the others change names, and asks it
// for them the moment it goes on: it must not tell what was true before.
func TestStoppedLeader(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
	cmd := s.command("put", "--timeout", "4m", "-", "/put")
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
