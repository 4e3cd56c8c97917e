package chunk

import (
	"slices"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// TestReopen opens a sealed replica again, writes on in the midst of a block, and wants bytes
// and records of both versions, before and after a start, and an index that says so.
func TestReopen(t *testing.T) {
	mem := disk.NewMem()
	s := open(t, mem, testOptions())
	data := pattern(1, 200_000)
	create(t, s, 5)
	write(t, s, 5, 0, 1, data[:100_000])
	write(t, s, 5, 100_000, 2, data[100_000:150_000])
	syncChunk(t, s, 5)
	seal(t, s, 5, 100_000)
	must(t, func(done func(error)) { s.Forget(5, 44, done) })
	before, _ := s.Usage()
	reopen := func(v quarry.Version, n int64) error {
		return wait(func(done func(error)) { s.Reopen(5, v, n, done) })
	}
	wantKind(t, reopen(2, 100_000), quarry.Invalid)
	wantKind(t, reopen(3, 99_999), quarry.Invalid)
	for range 2 { // the same request again
		if err := reopen(3, 100_000); err != nil {
			t.Fatal(err)
		}
	}
	wantKind(t, reopen(5, 100_000), quarry.Invalid)
	if u, _ := s.Usage(); u.Reserved-before.Reserved != quarry.ChunkBytesMax-100_000 {
		t.Errorf("%d bytes are reserved, %d were before", u.Reserved, before.Reserved)
	}
	st := state(t, s, 5)
	if st.Sealed() || st.Promised != 3 || st.LogVersion != 3 || st.SealVersion != 2 || st.SealLength != 100_000 || st.Hint != "/a/file" || st.File != 77 {
		t.Errorf("it is %+v", st)
	}
	if _, err := mem.Size(chunkName(5) + indexSuffix); err == nil {
		t.Error("the index is left")
	}
	wantBytes(t, s, 5, data[:100_000])
	write(t, s, 5, 100_000, 3, data[100_000:100_010]) // few: only the journal has them
	syncChunk(t, s, 5)
	s.Close()

	s = open(t, mem, testOptions())
	wantBytes(t, s, 5, data[:100_010])
	write(t, s, 5, 100_010, 4, data[100_010:])
	syncChunk(t, s, 5)
	req := sealRequest(5, 200_000)
	req.Version, req.WritableVersion = 4, 3
	must(t, func(done func(error)) { s.Seal(req, done) })
	s.Close()

	s = open(t, mem, testOptions())
	wantBytes(t, s, 5, data)
	if st := state(t, s, 5); !st.Sealed() || st.SealVersion != 4 || st.CRC != checksum(data) || !slices.Contains(st.Forgotten, 44) {
		t.Errorf("it is %+v", st)
	}
	runs, _, err := s.Records(5)
	if err != nil || len(runs) != 3 || runs[1].Sequence != 3 || runs[1].Offset != 100_000 || runs[2].Offset != 100_010 {
		t.Errorf("its records are %+v, %v", runs, err)
	}
}

// TestReopenRefused: a replica that is broken, gone, or has no room stays sealed.
func TestReopenRefused(t *testing.T) {
	mem := disk.NewMem()
	s := open(t, mem, testOptions())
	reopen := func(h quarry.Handle) error {
		return wait(func(done func(error)) { s.Reopen(h, 3, 1000, done) })
	}
	for h := range quarry.Handle(3) {
		create(t, s, h+1)
		write(t, s, h+1, 0, 1, pattern(1, 1000))
	}
	wantKind(t, reopen(3), quarry.Invalid) // it is open
	for h := range quarry.Handle(3) {
		seal(t, s, h+1, 1000)
	}
	wantKind(t, reopen(9), quarry.NotFound)
	must(t, func(done func(error)) { s.MarkCorrupt(1, done) })
	wantKind(t, reopen(1), quarry.Corrupt)
	if err := mem.Remove(chunkName(2) + indexSuffix); err != nil {
		t.Fatal(err)
	}
	s.Close()
	opts := testOptions()
	_, free, _ := mem.Usage()
	opts.ReserveBytes = free - quarry.ChunkBytesMax/2
	s = open(t, mem, opts)
	wantKind(t, reopen(2), quarry.Corrupt)
	wantKind(t, reopen(3), quarry.NoSpace)
	if st := state(t, s, 3); !st.Sealed() || st.Promised != 2 {
		t.Errorf("it is %+v", st)
	}
	wantBytes(t, s, 3, pattern(1, 1000))
}
