package raft

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/crc32c"
	"github.com/quarryfs/quarry/journal"
	"github.com/quarryfs/quarry/wire"
)

// FuzzIdentity reads hostile identity files, with the right checksum if mend is set.
func FuzzIdentity(f *testing.F) {
	b := identity{quarry.DiskID{1, 2, 3}, 4, quarry.ClusterID{5, 6}, true}.encode()
	f.Add(b, false)
	f.Add(b, true)
	f.Add(b[:12], false)
	f.Fuzz(func(t *testing.T, b []byte, mend bool) {
		if mend && len(b) >= identityBytes {
			b = bytes.Clone(b[:identityBytes])
			copy(b, identityMagic)
			binary.LittleEndian.PutUint32(b[8:], identityVersion)
			binary.LittleEndian.PutUint32(b[56:], crc32c.Checksum(b[:56]))
		}
		id, err := decodeIdentity(b)
		if err != nil {
			if k := quarry.KindOf(err); k != quarry.Corrupt && k != quarry.Unsupported || mend && len(b) == identityBytes {
				t.Fatal(err)
			}
			return
		}
		if again, err := decodeIdentity(id.encode()); err != nil || again != id {
			t.Fatalf("%+v became %+v, %v", id, again, err)
		}
	})
}

// FuzzMembership reads hostile memberships and heads of snapshots.
func FuzzMembership(f *testing.F) {
	f.Add(wire.Marshal(nil, sampleMembership(), membersFields))
	f.Add(wire.Marshal(nil, &snapshotHead{group: 5, from: Member{1, quarry.DiskID{1}, "node1:7400"}, to: 2, disk: quarry.DiskID{2}, term: 7}, snapshotHeadFields))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m, m2 membership
		if wire.Unmarshal(b, &m, membersFields) == nil {
			if err := wire.Unmarshal(wire.Marshal(nil, &m, membersFields), &m2, membersFields); err != nil || !reflect.DeepEqual(m, m2) {
				t.Fatalf("%+v became %+v, %v", m, m2, err)
			}
			_ = m.conf()
			_, _ = m.find(1)
		}
		var h, h2 snapshotHead
		if wire.Unmarshal(b, &h, snapshotHeadFields) == nil {
			if err := wire.Unmarshal(wire.Marshal(nil, &h, snapshotHeadFields), &h2, snapshotHeadFields); err != nil || h != h2 {
				t.Fatalf("%+v became %+v, %v", h, h2, err)
			}
		}
	})
}

// pieces cuts bytes into at most 64 parts, each behind two bytes with its length.
func pieces(b []byte) (list [][]byte) {
	for len(b) >= 2 && len(list) < 64 {
		n := min(int(binary.LittleEndian.Uint16(b)), len(b)-2)
		list = append(list, b[2:][:n])
		b = b[2+n:]
	}
	return list
}

func joinPieces(list ...[]byte) (b []byte) {
	for _, p := range list {
		b = append(binary.LittleEndian.AppendUint16(b, uint16(len(p))), p...)
	}
	return b
}

// FuzzReplay replays hostile records. A log that comes of it has its entries in order, and
// terms that do not fall; each record that is taken comes back when it is written again.
func FuzzReplay(f *testing.F) {
	hard := hardState{7, 2, 299}
	f.Add(joinPieces(
		encodeBase(nil, recordReset, 5, hardState{}, 0, 0), encodeBase(nil, recordReset, 5, hard, 300, 6),
		encodeEntries(nil, 5, hard, sampleMessage().Entries), encodeBase(nil, recordBase, 5, hard, 302, 7), encodeEntries(nil, 5, hard, nil),
		encodeBase(nil, recordMoved, 5, hard, 302, 7), encodeEntries(nil, 5, hard, sampleMessage().Entries[2:])))
	f.Add(joinPieces(encodeEntries(nil, 5, hard, sampleMessage().Entries), encodeBase(nil, recordBase, 5, hard, 300, 6)))
	f.Fuzz(func(t *testing.T, b []byte) {
		logs := map[groupID]*entryLog{}
		for i, p := range pieces(b) {
			if err := replay(logs, journal.Position{Segment: 1, Offset: uint32(i)}, p); err != nil {
				return // a journal that does not replay is refused
			}
			r, err := decodeRecord(p)
			if err != nil {
				t.Fatal(err)
			}
			again := encodeBase(nil, r.kind, r.id, r.hard, r.first, r.term)
			if r.kind == recordEntries {
				again = encodeEntries(nil, r.id, r.hard, r.entries)
			}
			if r2, err := decodeRecord(again); err != nil || len(r2.entries) != len(r.entries) || r2.kind != r.kind || r2.id != r.id || r2.hard != r.hard || r2.term != r.term {
				t.Fatalf("%+v became %+v, %v", r, r2, err)
			}
		}
		for id, l := range logs {
			if l.last < l.base {
				t.Fatalf("group %d: the log is %d to %d", id, l.base, l.last)
			}
			term := l.baseTerm
			for i := max(l.base+1, l.cached); i <= l.last; i++ {
				if l.term(i) < term && !l.open {
					t.Fatalf("group %d: entry %d has term %d behind term %d", id, i, l.term(i), term)
				}
				if e := l.cache[i-l.cached]; e.GetIndex() != i || e.GetTerm() != l.term(i) {
					t.Fatalf("group %d: entry %d of term %d is %v", id, i, l.term(i), e)
				}
				term = l.term(i)
			}
		}
	})
}

// FuzzSnapshotBlocks reads a stream of hostile blocks whose checksums are right: keys ascend,
// and only a stream that says how many it has ends well.
func FuzzSnapshotBlocks(f *testing.F) {
	pair := appendPair(appendPair(nil, []byte{keyApplied}, applied{40, 6}.encode(nil)), []byte{keyData, 'k'}, []byte("value"))
	f.Add(joinPieces(pair), uint64(2))
	f.Add(joinPieces(pair, appendPair(nil, []byte{keyData, 'l'}, nil)), uint64(3))
	f.Add(joinPieces([]byte{1, 0xff, 0xff, 0xff, 0xff, 0x0f}), uint64(1))
	f.Fuzz(func(t *testing.T, b []byte, keys uint64) {
		var stream []byte
		for _, p := range pieces(b) {
			stream = append(stream, sealBlock(append(make([]byte, 8), p...))...)
		}
		sr := &snapshotReader{r: bytes.NewReader(append(stream, lastBlock(nil, keys)...))}
		var last []byte
		for {
			key, value, err := sr.next()
			if err != nil {
				if err.Error() == "EOF" && sr.keys != keys {
					t.Fatalf("%d keys came, %d were announced", sr.keys, keys)
				}
				return
			}
			if len(key) > KeyBytesMax+1 || len(value) > ValueBytesMax || last != nil && bytes.Compare(key, last) <= 0 {
				t.Fatalf("key %x after %x, with a value of %d bytes", key, last, len(value))
			}
			last = bytes.Clone(key)
		}
	})
}
