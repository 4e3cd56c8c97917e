package raft

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden files")

func sampleMessage() *pb.Message {
	change := pb.EntryConfChangeV2
	return &pb.Message{
		Type: pb.MsgApp.Enum(), To: new(uint64(2)), From: new(uint64(1)), Term: new(uint64(7)), LogTerm: new(uint64(6)),
		Index: new(uint64(300)), Commit: new(uint64(299)), RejectHint: new(uint64(5)), Reject: new(true), Context: []byte("contexts"),
		Entries: []*pb.Entry{entry(301, 6, "one"), {Index: new(uint64(302)), Term: new(uint64(7)), Type: &change, Data: []byte("two")}, entry(303, 7, "")},
	}
}

func sampleBatch() []byte {
	b := appendEnvelope(nil, &envelope{from: Member{1, quarry.DiskID{1, 2}, "node1:7400"}, to: 2, disk: quarry.DiskID{3, 4}})
	b = appendMessage(b, 5, sampleMessage())
	b = appendMessage(b, 6, &pb.Message{Type: pb.MsgHeartbeat.Enum(), Term: new(uint64(7)), Commit: new(uint64(8))})
	sealBatch(b)
	return b
}

func sampleMembership() *membership {
	return &membership{
		voters: []uint64{1, 2}, learners: []uint64{4}, outgoing: []uint64{1, 3}, learnersNext: []uint64{3}, autoLeave: true,
		members: []Member{{1, quarry.DiskID{1}, "a:1"}, {2, quarry.DiskID{2}, "b:1"}, {3, quarry.DiskID{3}, "c:1"}, {4, quarry.DiskID{4}, "d:1"}},
		retired: []Member{{Node: 9, Disk: quarry.DiskID{9}}},
	}
}

func sampleSnapshot(t testing.TB) []byte {
	head := snapshotHead{group: 5, from: Member{1, quarry.DiskID{1}, "node1:7400"}, to: 2, disk: quarry.DiskID{2}, term: 7}
	st := groupState{applied: applied{40, 6}, members: *sampleMembership()}
	var b bytes.Buffer
	s := snapshotWriter{head: &head}
	s.add([]byte{keyApplied}, st.applied.encode(nil))
	s.add([]byte{keyMembers}, wire.Marshal(nil, &st.members, membersFields))
	s.add([]byte{keyData, 'k'}, []byte("value"))
	s.finish(&b)
	return b.Bytes()
}

// snapshotWriter makes the bytes of a stream from keys and values.
type snapshotWriter struct {
	head *snapshotHead
	body []byte
	keys uint64
}

func (s *snapshotWriter) add(key, value []byte) {
	s.body = appendPair(s.body, key, value)
	s.keys++
}

func (s *snapshotWriter) finish(w io.Writer) {
	_, _ = w.Write(appendSnapshotHead(nil, s.head))
	_, _ = w.Write(sealBlock(append(make([]byte, 8), s.body...)))
	_, _ = w.Write(lastBlock(nil, s.keys))
}

// TestGolden compares every format with bytes that must not change.
func TestGolden(t *testing.T) {
	hard := hardState{7, 2, 299}
	for name, b := range map[string][]byte{
		"batch":          sampleBatch(),
		"record-entries": encodeEntries(nil, 5, hard, sampleMessage().Entries),
		"record-empty":   encodeEntries(nil, 5, hard, nil),
		"record-base":    encodeBase(nil, recordBase, 5, hard, 300, 6),
		"record-reset":   encodeBase(nil, recordReset, 5, hard, 300, 6),
		"record-moved":   encodeBase(nil, recordMoved, 5, hard, 300, 6),
		"identity":       identity{quarry.DiskID{1, 2, 3}, 4, quarry.ClusterID{5, 6}, true}.encode(),
		"membership":     wire.Marshal(nil, sampleMembership(), membersFields),
		"applied":        applied{40, 6}.encode(nil),
		"snapshot":       sampleSnapshot(t),
		"key":            append(metaKey(258, keyData), "key"...),
	} {
		path := filepath.Join("testdata", "golden", name)
		if *rewrite {
			if err := os.WriteFile(path, []byte(hex.Dump(b)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil || string(want) != hex.Dump(b) {
			t.Errorf("%s: %v: the bytes are\n%s", name, err, hex.Dump(b))
		}
	}
}

func TestMessageRoundTrip(t *testing.T) {
	e, rest, err := openBatch(sampleBatch())
	if err != nil || e.from != (Member{1, quarry.DiskID{1, 2}, "node1:7400"}) || e.to != 2 || e.disk != (quarry.DiskID{3, 4}) {
		t.Fatal(e, err)
	}
	body, rest, err := nextMessage(rest)
	if err != nil {
		t.Fatal(err)
	}
	id, r, err := decodeMessage(body, 1, 2)
	if err != nil || id != 5 {
		t.Fatal(id, err)
	}
	if got, want := fmt.Sprint(&r.m), fmt.Sprint(sampleMessage()); strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(want, " ", "") {
		t.Errorf("the message is\n%s, not\n%s", got, want)
	}
	body, rest, err = nextMessage(rest)
	if err != nil || len(rest) != 0 {
		t.Fatal(err, rest)
	}
	if id, r, err = decodeMessage(body, 1, 2); err != nil || id != 6 || r.m.GetType() != pb.MsgHeartbeat || r.m.GetCommit() != 8 {
		t.Error(id, r, err)
	}
}

// TestMessageRefused gives the decoder messages that no sound node sends.
func TestMessageRefused(t *testing.T) {
	for name, change := range map[string]func(m *pb.Message){
		"a local message":      func(m *pb.Message) { m.Type = pb.MsgHup.Enum(); m.Entries = nil },
		"a snapshot":           func(m *pb.Message) { m.Type = pb.MsgSnap.Enum(); m.Entries = nil },
		"a proposal":           func(m *pb.Message) { m.Type = pb.MsgProp.Enum() },
		"an answer of storage": func(m *pb.Message) { m.Type = pb.MsgStorageAppendResp.Enum(); m.Entries = nil },
		"no term":              func(m *pb.Message) { m.Term = nil; m.LogTerm = nil; m.Entries = nil },
		"entries in a vote":    func(m *pb.Message) { m.Type = pb.MsgVote.Enum() },
		"a later entry":        func(m *pb.Message) { m.Entries[2].Term = new(uint64(8)) },
		"an earlier entry":     func(m *pb.Message) { m.Entries[1].Term = new(uint64(5)) },
		"entries before":       func(m *pb.Message) { m.Entries[0].Term = new(uint64(5)) },
		"an entry without":     func(m *pb.Message) { m.Entries[0].Term = new(uint64(0)); m.LogTerm = nil },
		"a later log":          func(m *pb.Message) { m.LogTerm = new(uint64(8)); m.Entries = nil },
		"a strange entry":      func(m *pb.Message) { m.Entries[0].Type = pb.EntryConfChange.Enum() },
		"the end of indexes":   func(m *pb.Message) { m.Index = new(^uint64(0)) },
		"nearly the end":       func(m *pb.Message) { m.Index = new(^uint64(1)) },
		"a long context":       func(m *pb.Message) { m.Context = make([]byte, contextBytesMax+1) },
		"a heartbeat's short context": func(m *pb.Message) {
			m.Type, m.Entries, m.Context = pb.MsgHeartbeatResp.Enum(), nil, []byte("x")
		},
	} {
		m := sampleMessage()
		change(m)
		if _, _, err := decodeMessage(appendMessage(nil, 5, m)[4:], 1, 2); !errors.Is(err, quarry.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	whole := appendMessage(nil, 5, sampleMessage())[4:]
	for n := range whole {
		if _, _, err := decodeMessage(whole[:n], 1, 2); err == nil {
			t.Errorf("a message cut to %d bytes is taken", n)
		}
	}
}

func TestBatchRefused(t *testing.T) {
	for i := range sampleBatch() {
		b := sampleBatch()
		b[i] ^= 1
		if _, _, err := openBatch(b); err == nil {
			t.Errorf("a batch with a flipped bit in byte %d is taken", i)
		}
	}
	b := sampleBatch()
	b[3]++
	if _, _, err := openBatch(b); !errors.Is(err, quarry.Unsupported) {
		t.Error(err)
	}
	if _, _, err := openBatch(make([]byte, BatchBytesMax+1)); !errors.Is(err, quarry.TooLarge) {
		t.Error(err)
	}
}

func TestIdentityRefused(t *testing.T) {
	id := identity{quarry.DiskID{1, 2, 3}, 4, quarry.ClusterID{5, 6}, true}
	if got, err := decodeIdentity(id.encode()); err != nil || got != id {
		t.Error(got, err)
	}
	for i := range id.encode() {
		b := id.encode()
		b[i] ^= 1
		want := quarry.Corrupt
		if i >= 8 && i < 12 {
			want = quarry.Unsupported
		}
		if _, err := decodeIdentity(b); !errors.Is(err, want) {
			t.Errorf("byte %d: %v", i, err)
		}
		if _, err := decodeIdentity(id.encode()[:i]); err == nil {
			t.Errorf("%d bytes are taken", i)
		}
	}
}

func readSnapshot(b []byte) (snapshotHead, []string, error) {
	sr := &snapshotReader{r: bytes.NewReader(b)}
	h, err := sr.head()
	if err != nil {
		return h, nil, err
	}
	var keys []string
	for {
		k, _, err := sr.next()
		if err == io.EOF {
			return h, keys, nil
		}
		if err != nil {
			return h, keys, err
		}
		keys = append(keys, string(k))
	}
}

func TestSnapshotRefused(t *testing.T) {
	whole := sampleSnapshot(t)
	if _, keys, err := readSnapshot(whole); err != nil || !reflect.DeepEqual(keys, []string{"\x01", "\x02", "\x03k"}) {
		t.Fatal(keys, err)
	}
	for i := range whole {
		if _, _, err := readSnapshot(whole[:i]); err == nil {
			t.Errorf("%d of %d bytes are taken", i, len(whole))
		}
		b := bytes.Clone(whole)
		b[i] ^= 1
		if _, _, err := readSnapshot(b); err == nil {
			t.Errorf("a flipped bit in byte %d is taken", i)
		}
	}
	w := snapshotWriter{head: &snapshotHead{group: 1}}
	w.add([]byte{3, 'b'}, nil)
	w.add([]byte{3, 'b'}, nil)
	var b bytes.Buffer
	w.finish(&b)
	if _, _, err := readSnapshot(b.Bytes()); !errors.Is(err, quarry.Invalid) {
		t.Errorf("keys out of order: %v", err)
	}
}

func FuzzMessage(f *testing.F) {
	f.Add(appendMessage(nil, 5, sampleMessage())[4:])
	f.Fuzz(func(t *testing.T, b []byte) {
		id, r, err := decodeMessage(b, 1, 2)
		if err != nil {
			return
		}
		again := appendMessage(nil, id, &r.m)
		if len(again) > messageSize(&r.m) {
			t.Errorf("a message of %d bytes was estimated at %d", len(again), messageSize(&r.m))
		}
		if _, _, err := decodeMessage(again[4:], 1, 2); err != nil {
			t.Errorf("what was taken is refused when it is sent on: %v", err)
		}
	})
}

func FuzzBatch(f *testing.F) {
	f.Add(sampleBatch()[8:])
	f.Fuzz(func(t *testing.T, b []byte) {
		b = append([]byte(batchMagic+"\x00\x00\x00\x00"), b...)
		sealBatch(b)
		_, rest, err := openBatch(b)
		for err == nil && len(rest) > 0 {
			_, rest, err = nextMessage(rest)
		}
	})
}

func FuzzRecord(f *testing.F) {
	f.Add(encodeEntries(nil, 5, hardState{7, 2, 299}, sampleMessage().Entries))
	f.Add(encodeBase(nil, recordBase, 5, hardState{7, 2, 299}, 300, 6))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = decodeRecord(b) })
}

func FuzzSnapshot(f *testing.F) {
	f.Add(sampleSnapshot(f))
	f.Fuzz(func(t *testing.T, b []byte) { _, _, _ = readSnapshot(b) })
}

// travelling returns the types of messages that travel, in order.
func travelling() (list []pb.MessageType) {
	for typ := range travels {
		list = append(list, typ)
	}
	slices.Sort(list)
	return list
}
