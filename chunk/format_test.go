package chunk

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/journal"
	"github.com/quarryfs/quarry/wire"
)

func testIndex() *Index {
	x := &Index{
		Handle: 0xabcdef, File: 77, Position: 1 << 30, Hint: "/a/file", SealVersion: 4, WritableVersion: 3, Length: 70_000,
		CRCs: []uint32{0x01020304, 0xfffefdfc}, Mutable: true,
		Runs: []quarry.RecordRun{{Session: 9, Sequence: 1, Count: 69, Length: 1000},
			{Session: 8, Sequence: 5, Count: 1, Offset: 69_000, Length: 1000}},
		Forgotten: []quarry.SessionID{3},
	}
	x.CRC = (&sums{x.Length, x.CRCs}).whole()
	return x
}

// TestFormat holds what is written against golden bytes. A released format stays in testdata
// for ever, and every release opens it or refuses it by name.
func TestFormat(t *testing.T) {
	compareGolden(t, "testdata/v1-FORMAT", testIdentity.encode())
	b, sum := testIndex().encode()
	compareGolden(t, "testdata/v1-index.hex", []byte(hex.Dump(b)))
	x, got, err := readIndex(b)
	if err != nil || got != sum || !reflect.DeepEqual(x, testIndex()) {
		t.Fatalf("%+v, %v", x, err)
	}
	var all []byte
	for _, rec := range testRecords() {
		all = append(all, hex.Dump(rec.encode(nil))...)
		all = append(all, '\n')
	}
	compareGolden(t, "testdata/v1-records.hex", all)
}

// testRecords has a record of each kind.
func testRecords() []record {
	created := State{Handle: 0xab, Status: quarry.ReplicaGood, Promised: 1, LogVersion: 1, Serving: true, File: 77, Position: 1 << 30, Hint: "/a/file"}
	grown := State{Handle: 0xab, Status: quarry.ReplicaGood, Promised: 2, LogVersion: 1, Adopted: 1, Serving: true, Length: 3, Mutable: true, Forgotten: []quarry.SessionID{1, 2}}
	sealed := created
	sealed.Promised, sealed.SealVersion, sealed.Length, sealed.SealLength, sealed.flushed, sealed.CRC, sealed.index = 2, 2, 3, 3, 3, 5, 6
	return []record{
		{Kind: recordServer, Number: 12},
		{Kind: recordWhole, Handle: 0xab, State: created},
		{Kind: recordGrown, Handle: 0xab, State: grown, CRCs: []uint32{0x01020304}, Runs: []uint64{9, 1, 3, 1}, Data: []byte("abc")},
		{Kind: recordWhole, Handle: 0xab, State: sealed},
		{Kind: recordDropped, Handle: 0xab},
	}
}

// TestRecordsRefused wants a journal that says what cannot be to be refused, and never to
// make the store panic.
func TestRecordsRefused(t *testing.T) {
	created, grown, sealed := testRecords()[1], testRecords()[2], testRecords()[3]
	change := func(r record, f func(*record)) record { f(&r); return r }
	for name, records := range map[string][]record{
		"no such kind":      {{Kind: 9, Handle: 1}},
		"no handle":         {{Kind: recordDropped}},
		"no status":         {change(created, func(r *record) { r.State.Status = 0 })},
		"no beginning":      {grown},
		"sealed grows":      {sealed, grown},
		"too few records":   {created, change(grown, func(r *record) { r.Runs = nil })},
		"too many records":  {created, change(grown, func(r *record) { r.Runs = []uint64{9, 1, 4, 1} })},
		"odd records":       {created, change(grown, func(r *record) { r.Runs = r.Runs[:3] })},
		"no checksum":       {created, change(grown, func(r *record) { r.CRCs = nil })},
		"bytes missing":     {created, change(grown, func(r *record) { r.Data = nil })},
		"shrinks":           {created, grown, change(grown, func(r *record) { r.State.Length = 2 })},
		"too long":          {created, change(grown, func(r *record) { r.State.Length = quarry.ChunkBytesMax + 1 })},
		"negative length":   {change(created, func(r *record) { r.State.Length = -1 })},
		"sealed, checksums": {change(sealed, func(r *record) { r.CRCs = []uint32{1} })},
		"sealed, other end": {change(sealed, func(r *record) { r.State.SealLength = 2 })},
		"above promised":    {change(sealed, func(r *record) { r.State.Promised = 1 })},
		"whole, not synced": {change(grown, func(r *record) { r.Kind = recordWhole })},
	} {
		t.Run(name, func(t *testing.T) {
			m := disk.NewMem()
			open(t, m, testOptions()).Close()
			j, err := journal.Open(m, journalName, journal.Options{}, func(journal.Position, []byte) error { return nil })
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range records {
				if _, err := j.Write(r.encode(nil)); err != nil {
					t.Fatal(err)
				}
			}
			j.Close()
			_, err = Open(m, testOptions())
			wantKind(t, err, quarry.Corrupt)
		})
	}
}

// FuzzIndex reads hostile index files, with right and wrong checksums.
func FuzzIndex(f *testing.F) {
	b, _ := testIndex().encode()
	f.Add(b, false)
	f.Add(b[frameHeaderBytes:], true)
	f.Fuzz(func(t *testing.T, b []byte, framed bool) {
		if framed {
			b = appendFrame(nil, indexMagic, indexVersion, b)
		}
		x, err := ReadIndex(b)
		if err != nil {
			if k := quarry.KindOf(err); k != quarry.Corrupt && k != quarry.Unsupported {
				t.Fatal(err)
			}
			return
		}
		again, _ := x.encode()
		y, err := ReadIndex(again)
		if err != nil || !reflect.DeepEqual(x, y) {
			t.Fatalf("%+v comes back as %+v, %v", x, y, err)
		}
	})
}

// FuzzIdentity reads hostile FORMAT files.
func FuzzIdentity(f *testing.F) {
	f.Add(testIdentity.encode())
	f.Add([]byte("quarry disk format 2\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := decodeIdentity(b)
		if err == nil && !bytes.Equal(id.encode(), b) {
			t.Fatalf("%q is taken for %+v", b, id)
		}
	})
}

// FuzzReplay replays hostile records. What is accepted must come back from a checkpoint.
func FuzzReplay(f *testing.F) {
	var seed []byte
	for _, r := range testRecords() {
		b := r.encode(nil)
		seed = append(append(seed, byte(len(b))), b...)
		f.Add(bytes.Clone(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p := replayer{&Store{}, map[quarry.Handle]bool{}}
		for len(b) > 0 {
			n := min(int(b[0]), len(b)-1)
			if err := p.replay(b[1 : 1+n]); err != nil {
				return
			}
			b = b[1+n:]
		}
		p.s.replicas.Scan(func(h quarry.Handle, r *replica) bool {
			if g := r.growth; g != nil && len(g.replayed) > 0 {
				r.state.flushed = r.state.Length // as it is when the checkpoint logs it
			}
			var rec record
			if err := wire.Unmarshal(r.wholeRecord(nil, &r.state, r.growth, 0), &rec, recordFields); err != nil {
				t.Fatal(err)
			}
			again, err := rec.replica()
			if err != nil || !reflect.DeepEqual(again.state, r.state) {
				t.Fatalf("%+v comes back as %+v, %v", r.state, again, err)
			}
			if g := r.growth; g != nil && (!reflect.DeepEqual(g.sums.crcs, again.growth.sums.crcs) && len(g.sums.crcs) > 0 || len(g.runs) != len(again.growth.runs)) {
				t.Fatalf("%+v comes back as %+v", g, again.growth)
			}
			return true
		})
	})
}
