package test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/crc32c"
)

// TestHostileBytes sends every port what no Quarry process sends: noise, other protocols,
// frames that claim to be huge, and the frames of a real client, cut off and changed, with
// and without checksums that fit. No process ends, none takes much memory, and others are
// served all the while.
func TestHostileBytes(t *testing.T) {
	t.Parallel()
	s := newSystem(t, options{masters: 1, servers: 3})
	sum := s.put("/file", 1<<20)
	rounds := 200
	if long() {
		rounds = 5000
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var work sync.WaitGroup
	for i, p := range append(s.masters, s.servers...) {
		genuine := genuineBytes(t, s, p)
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		work.Go(func() { hostile(t, p, genuine, r, rounds) })
	}
	work.Wait()
	for _, p := range append(s.masters, s.servers...) {
		if err := p.cmd.Process.Signal(syscall.Signal(0)); err != nil {
			t.Errorf("%s: %v", p.name, err)
		}
		if kib := memoryMost(p); kib > 1<<20 {
			t.Errorf("%s took %d KiB of memory", p.name, kib)
		}
	}
	s.healthy()
	s.check("/file", sum)
	if out, code := s.run("", "put", s.servers[0].log, "/more"); code != 0 {
		t.Errorf("put: %s", out)
	}
}

// hostile sends a process what it must not believe. Some connections stay open to the end.
func hostile(t *testing.T, p *process, genuine []byte, r *rand.Rand, rounds int) {
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	huge := bytes.Clone(genuine[:headBytes])
	binary.LittleEndian.PutUint32(huge[24:], 1<<31)
	binary.LittleEndian.PutUint32(huge[28:], 1<<32-1)
	repair(huge)
	inputs := [][]byte{genuine, nil, []byte("GET / HTTP/1.1\r\n\r\n"), noise, []byte("QRPC"), huge, bytes.Repeat(genuine, 20)}
	for range rounds {
		inputs = append(inputs, spoil(r, genuine))
	}
	for i, b := range inputs {
		conn, err := net.Dial("tcp", p.address)
		if err != nil {
			t.Errorf("%s takes no connection any more: %v", p.name, err)
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		_, _ = conn.Write(b) // it may be cut off meanwhile
		switch i % 4 {
		case 0:
			_ = conn.(*net.TCPConn).CloseWrite()
			n, _ := io.Copy(io.Discard, conn) // until the server hangs up
			if i == 0 && n < 3*headBytes {
				t.Errorf("%s answers %d bytes to a real client's: the spoilt ones tell nothing", p.name, n)
			}
		case 1, 2:
			conn.Close()
		}
	}
}

// spoil returns a client's bytes with something wrong.
func spoil(r *rand.Rand, genuine []byte) []byte {
	b := bytes.Clone(genuine)
	switch r.IntN(4) {
	case 0:
		return b[:r.IntN(len(b))]
	case 1:
		for range 1 + r.IntN(8) {
			b[r.IntN(len(b))] ^= 1 << r.IntN(8)
		}
		return b
	case 2: // a part comes again
		from := r.IntN(len(b))
		return append(b[:from:from], b[r.IntN(from+1):]...)
	}
	// The checksums fit, what they protect does not.
	for range 1 + r.IntN(4) {
		b[headBytes+r.IntN(len(b)-headBytes)] ^= 1 << r.IntN(8)
	}
	repair(b)
	return b
}

// headBytes is the length of a frame's head; docs/protocol.md has its fields.
const headBytes = 44

// repair makes the checksums of all frames fit what they are of.
func repair(b []byte) {
	for len(b) >= headBytes {
		body := int64(binary.LittleEndian.Uint32(b[24:]))
		next := headBytes + body + int64(binary.LittleEndian.Uint32(b[28:]))
		if headBytes+body <= int64(len(b)) {
			binary.LittleEndian.PutUint32(b[32:], crc32c.Checksum(b[headBytes:headBytes+body]))
		}
		binary.LittleEndian.PutUint32(b[40:], crc32c.Checksum(b[:40]))
		if next > int64(len(b)) {
			return
		}
		b = b[next:]
	}
}

// genuineBytes returns what a client sends to a process on one connection in some harmless
// calls, the handshake included.
func genuineBytes(t *testing.T, s *system, p *process) []byte {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var copying sync.WaitGroup
	streams := make(chan []byte, 16)
	copying.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", p.address)
			if err != nil {
				in.Close()
				continue
			}
			copying.Go(func() {
				_, _ = io.Copy(in, out)
				in.Close()
			})
			copying.Go(func() {
				var sent bytes.Buffer
				_, _ = io.Copy(out, io.TeeReader(in, &sent))
				out.Close()
				streams <- sent.Bytes()
			})
		}
	})
	calls(t, s, l.Addr().String(), strings.HasPrefix(p.name, "master"))
	l.Close()
	copying.Wait()
	close(streams)
	var longest []byte
	for b := range streams {
		if len(b) > len(longest) {
			longest = b
		}
	}
	return longest
}

// calls calls a process through a connection of its own.
func calls(t *testing.T, s *system, address string, master bool) {
	t.Helper()
	conns := newConns()
	defer conns.Close()
	ctx, cancel := context.WithTimeout(s.ctx, time.Minute)
	defer cancel()
	var err error
	if master {
		m := conns.Master(address)
		_, err = m.Status(ctx)
		if err == nil {
			_, err = m.Lookup(ctx, &quarry.LookupRequest{From: quarry.RootInode, Path: "file"})
		}
		if err == nil {
			_, err = m.List(ctx, &quarry.ListRequest{Dir: quarry.RootInode, Max: 10})
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	c := conns.ChunkServer(address) // what is asked for is not there: the answers do not matter
	ref := quarry.ChunkRef{Handle: 77, Version: 2}
	_, _ = c.Read(ctx, &quarry.ReadRequest{ChunkRef: ref, Length: 1 << 10})
	_, _ = c.Fence(ctx, &quarry.FenceRequest{ChunkRef: ref})
	_ = c.Create(ctx, &quarry.CreateRequest{ChunkRef: ref, Hint: "/hint"})
	c.Append(ctx, &quarry.AppendRequest{ChunkRef: ref, Sequence: 1, Oldest: 1, CRCs: []uint32{1}, Data: []byte("data")}, func(*quarry.AppendReply, error) {})
	_, _ = c.Records(ctx, &quarry.RecordsRequest{ChunkRef: ref})
}

// memoryMost returns the most memory that a process had, in KiB; 0 where that is not told.
func memoryMost(p *process) (kib int) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(b), "VmHWM:")
	_, _ = fmt.Sscan(after, &kib)
	return kib
}
