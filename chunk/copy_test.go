package chunk

import (
	"slices"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

func copyRequest(h quarry.Handle, data []byte) *quarry.CopyRequest {
	return &quarry.CopyRequest{
		ChunkRef: quarry.ChunkRef{Handle: h, Version: 2}, Length: int64(len(data)), WritableVersion: 1,
		CRC: checksum(data), CRCKnown: true, File: 77, Position: 1 << 30, Hint: "/a/file",
	}
}

// receive copies data as a chunk, with one record.
func receive(t testing.TB, s *Store, req *quarry.CopyRequest, data []byte) error {
	t.Helper()
	in, err := s.Receive(req)
	if err != nil {
		return err
	}
	for off := 0; off < len(data); off += 100_000 {
		part := data[off:min(off+100_000, len(data))]
		if err := in.Write(part, blockParts(int64(off), part)); err != nil {
			in.Abort()
			return err
		}
	}
	runs := []quarry.RecordRun{{Session: 4, Sequence: 9, Count: 1, Length: int64(len(data))}}
	return wait(func(done func(error)) { in.Commit(runs, []quarry.SessionID{6}, done) })
}

// TestGatheredServes: what was put together from parts serves without Add, also after a restart;
// one that no log ever names can be dropped.
func TestGatheredServes(t *testing.T) {
	disks(t, func(t *testing.T, fsys disk.FS) {
		s := open(t, fsys, testOptions())
		data := pattern(1, 200_000)
		req := copyRequest(1, data)
		req.Parts = []quarry.CopyPart{{Handle: 2, Version: 2, Length: 150_000}, {Handle: 3, Version: 2, Length: 50_000}}
		if err := receive(t, s, req, data); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if st := state(t, s, 1); !st.Serving || !st.Sealed() {
				t.Fatalf("%+v", st)
			}
			s.Close()
			s = open(t, fsys, testOptions())
		}
		defer func() { s.Close() }()
		must(t, func(done func(error)) { s.Drop(1, 2, time.Time{}, done) })
		if _, ok := s.State(1); ok {
			t.Fatal("the replica is still there")
		}
	})
}

func TestCopy(t *testing.T) {
	disks(t, func(t *testing.T, fsys disk.FS) {
		s := open(t, fsys, testOptions())
		data := pattern(1, 1_234_567)
		if err := receive(t, s, copyRequest(1, data), data); err != nil {
			t.Fatal(err)
		}
		check := func() {
			t.Helper()
			st := state(t, s, 1)
			if !st.Sealed() || st.SealVersion != 2 || st.Promised != 2 || st.Status != quarry.ReplicaGood || st.CRC != checksum(data) {
				t.Fatalf("%+v", st)
			}
			wantBytes(t, s, 1, data)
			runs, forgotten, err := s.Records(1)
			if err != nil || len(runs) != 1 || runs[0].Session != 4 || !slices.Equal(forgotten, []quarry.SessionID{6}) {
				t.Fatalf("%v, %v, %v", runs, forgotten, err)
			}
		}
		check()
		if state(t, s, 1).Serving {
			t.Fatal("a copy serves before it was added")
		}
		s.Close()
		s = open(t, fsys, testOptions())
		check()
		wantKind(t, wait(func(done func(error)) { s.Add(1, 4, true, done) }), quarry.StaleVersion)
		must(t, func(done func(error)) { s.Add(1, 2, true, done) })
		if st := state(t, s, 1); !st.Serving || !st.Mutable {
			t.Fatalf("%+v", st)
		}
		wantKind(t, receive(t, s, copyRequest(1, data), data), quarry.StaleVersion)
		// A corrupt replica may be replaced by a copy of the same seal.
		must(t, func(done func(error)) { s.MarkCorrupt(1, done) })
		if err := receive(t, s, copyRequest(1, data), data); err != nil {
			t.Fatal(err)
		}
		check()
		if u, _ := s.Usage(); u.Reserved != 0 || u.Unsynced != 0 {
			t.Fatalf("usage %+v", u)
		}
	})
}

// TestCopyRefused gives up copies in every way, and wants nothing to be left of them.
func TestCopyRefused(t *testing.T) {
	m := disk.NewMem()
	s := open(t, m, testOptions())
	data := pattern(1, 200_000)
	create(t, s, 1)
	write(t, s, 1, 0, 1, data)
	must(t, func(done func(error)) { s.Promise(1, 3, done) })
	req := copyRequest(1, data)
	wantKind(t, receive(t, s, req, data), quarry.StaleVersion) // promised more

	req.Version, req.WritableVersion = 4, 3
	in, err := s.Receive(req)
	if err != nil {
		t.Fatal(err)
	}
	wantKind(t, second(s.Receive(req)), quarry.Busy)
	wantKind(t, in.Write(data, parts(data)[:3]), quarry.Invalid)
	wantKind(t, in.Write(append(data, 1), parts(data)), quarry.Invalid)
	wrong := parts(data)
	wrong[2]++
	wantKind(t, in.Write(data, wrong), quarry.Corrupt)
	if in.Length() != 0 {
		t.Fatal("refused bytes count")
	}
	if err := in.Write(data, parts(data)); err != nil {
		t.Fatal(err)
	}
	must(t, func(done func(error)) { s.Promise(1, 5, done) }) // while it is received
	runs := []quarry.RecordRun{{Session: 4, Sequence: 9, Count: 2, Length: 100_000}}
	wantKind(t, wait(func(done func(error)) { in.Commit(runs, nil, done) }), quarry.StaleVersion)
	wantBytes(t, s, 1, data)

	for name, c := range map[string]struct {
		change func(*quarry.CopyRequest)
		data   []byte
		kind   quarry.Kind
	}{
		"too few bytes":  {func(r *quarry.CopyRequest) {}, data[:100_000], quarry.Invalid},
		"too many bytes": {func(r *quarry.CopyRequest) { r.Length-- }, data, quarry.Invalid},
		"other bytes":    {func(r *quarry.CopyRequest) { r.CRC++ }, data, quarry.Corrupt},
		"too long":       {func(r *quarry.CopyRequest) { r.Length = quarry.ChunkBytesMax + 1 }, data, quarry.Invalid},
		"no version":     {func(r *quarry.CopyRequest) { r.Version = 1 }, data, quarry.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			req := copyRequest(2, data)
			c.change(req)
			wantKind(t, receive(t, s, req, c.data), c.kind)
		})
	}
	in, err = s.Receive(copyRequest(3, data))
	if err != nil {
		t.Fatal(err)
	}
	if err := in.Write(data, parts(data)); err != nil {
		t.Fatal(err)
	}
	bad := []quarry.RecordRun{{Session: 4, Sequence: 9, Count: 1, Length: 100_000}}
	wantKind(t, wait(func(done func(error)) { in.Commit(bad, nil, done) }), quarry.Corrupt)

	if u, _ := s.Usage(); u.Reserved != quarry.ChunkBytesMax-200_000 || u.Chunks != 1 {
		t.Fatalf("usage %+v", u)
	}
	for _, h := range []quarry.Handle{2, 3} {
		if names, _ := m.List(chunkDir(h)); len(names) > 0 {
			t.Fatalf("%v is left", names)
		}
	}
}
