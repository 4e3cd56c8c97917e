package chunk

import (
	"bytes"
	"errors"
	"flag"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/crc32c"
	"github.com/quarryfs/quarry/disk"
)

var rewrite = flag.Bool("rewrite", false, "write the expected bytes and traces anew")

var (
	testIdentity = Identity{Cluster: quarry.ClusterID{1, 2, 3}, Disk: quarry.DiskID{4, 5, 6}, Server: 7}
	testNow      = time.Unix(1_700_000_000, 0)
)

// testOptions are small, so that bounds are met.
func testOptions() Options {
	return Options{Identity: testIdentity, Now: testNow, ReserveBytes: 1, Workers: 2}
}

func open(t testing.TB, fsys disk.FS, opts Options) *Store {
	t.Helper()
	s, err := Open(fsys, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// wait runs a change and waits for it.
func wait(change func(done func(error))) error {
	c := make(chan error, 1)
	change(func(err error) { c <- err })
	return <-c
}

// must is wait for a change that succeeds.
func must(t testing.TB, change func(done func(error))) {
	t.Helper()
	if err := wait(change); err != nil {
		t.Fatal(err)
	}
}

func createRequest(h quarry.Handle) *quarry.CreateRequest {
	return &quarry.CreateRequest{
		ChunkRef: quarry.ChunkRef{Handle: h, Version: 1}, File: 77, Position: 1 << 30, Hint: "/a/file",
	}
}

func create(t testing.TB, s *Store, h quarry.Handle) {
	t.Helper()
	must(t, func(done func(error)) { s.Create(createRequest(h), done) })
}

// pattern is n bytes that the seed decides.
func pattern(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := 0; i < n; i += 8 {
		v := r.Uint64()
		for k := i; k < min(n, i+8); k++ {
			b[k] = byte(v)
			v >>= 8
		}
	}
	return b
}

// parts returns the checksums of data's 64 KiB parts.
func parts(data []byte) []uint32 {
	var crcs []uint32
	for len(data) > 0 {
		n := min(len(data), quarry.BlockBytes)
		crcs = append(crcs, crc32c.Checksum(data[:n]))
		data = data[n:]
	}
	return crcs
}

// header describes data as one record.
func header(session quarry.SessionID, seq quarry.Sequence, data []byte) quarry.RecordHeader {
	return quarry.RecordHeader{Session: session, Sequence: seq, Length: int64(len(data)), CRCs: parts(data)}
}

func write(t testing.TB, s *Store, h quarry.Handle, off int64, seq quarry.Sequence, data []byte) {
	t.Helper()
	if err := s.Write(h, off, []quarry.RecordHeader{header(9, seq, data)}, data); err != nil {
		t.Fatal(err)
	}
}

func syncChunk(t testing.TB, s *Store, h quarry.Handle) {
	t.Helper()
	must(t, func(done func(error)) { s.Sync(h, done) })
}

func sealRequest(h quarry.Handle, length int64) *quarry.SealRequest {
	return &quarry.SealRequest{ChunkRef: quarry.ChunkRef{Handle: h, Version: 2}, Length: length, WritableVersion: 1}
}

func seal(t testing.TB, s *Store, h quarry.Handle, length int64) {
	t.Helper()
	must(t, func(done func(error)) { s.Seal(sealRequest(h, length), done) })
}

func state(t testing.TB, s *Store, h quarry.Handle) State {
	t.Helper()
	st, ok := s.State(h)
	if !ok {
		t.Fatalf("there is no replica of %v", h)
	}
	return st
}

// read reads a range and verifies its checksums, as a client does.
func read(t testing.TB, s *Store, h quarry.Handle, off, n int64) []byte {
	t.Helper()
	b, err := tryRead(s, h, off, n)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func tryRead(s *Store, h quarry.Handle, off, n int64) ([]byte, error) {
	var all []byte
	for n > 0 {
		reply, err := s.Read(h, off, min(n, quarry.ReadBytesMax), nil)
		if err != nil {
			return all, err
		}
		data := reply.Data
		if reply.File != nil {
			f, err := s.fs.Open(chunkName(h))
			if err != nil {
				return all, err
			}
			data = make([]byte, reply.File.Length)
			_, err = f.ReadAt(data, reply.File.Offset)
			f.Close()
			if err != nil {
				return all, err
			}
			reply.Release()
		}
		if err := checkParts(off, data, reply.CRCs); err != nil {
			return all, err
		}
		if len(data) == 0 {
			break
		}
		all, off, n = append(all, data...), off+int64(len(data)), n-int64(len(data))
	}
	return all, nil
}

// checkParts is what the client of a read does with the checksums.
func checkParts(off int64, data []byte, crcs []uint32) error {
	for len(data) > 0 {
		n := min(int64(len(data)), quarry.BlockBytes-off%quarry.BlockBytes)
		if len(crcs) == 0 || crc32c.Checksum(data[:n]) != crcs[0] {
			return corrupt("the client found wrong bytes at %d", off)
		}
		data, off, crcs = data[n:], off+n, crcs[1:]
	}
	if len(crcs) > 0 {
		return errors.New("more checksums than bytes")
	}
	return nil
}

func wantBytes(t testing.TB, s *Store, h quarry.Handle, want []byte) {
	t.Helper()
	got := read(t, s, h, 0, int64(len(want))+1)
	if !bytes.Equal(got, want) {
		t.Fatalf("%d bytes come back, not the %d that were written", len(got), len(want))
	}
}

func wantKind(t testing.TB, err error, kind quarry.Kind) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("the error is %v, want one of kind %v", err, kind)
	}
}
