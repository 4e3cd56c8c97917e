package meta

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta/attr"
	"github.com/quarryfs/quarry/meta/move"
	"github.com/quarryfs/quarry/wire"
)

// script returns the commands of a life with every verb in it, behind each other with their
// lengths.
func script(t testing.TB) (all []byte) {
	s := newShard(t)
	d := s.mkdir(quarry.RootInode, "d")
	f := s.touch(d, "f")
	h := s.openTail(f, 1, 2, 3)
	s.seal(h, 100)
	more := s.openTail(f, 1, 2, 3)
	s.seal(more, 10)
	s.ok(s.merging(f, 0, h, more))
	s.ok(&Remove{Parent: d, Name: "f"})
	f = s.touch(d, "f")
	h = s.openTail(f, 1, 2, 3)
	s.seal(h, 100)
	whole := s.owned(10, 1, 2)
	s.ok(&Link{Parent: d, Name: "g", Mode: 0o644, Pieces: []quarry.LinkPiece{{Handle: whole, Length: 10}, {Inline: []byte("x")}}})
	s.ok(&Rename{Parent: d, Name: "g", ToParent: quarry.RootInode, ToName: "h", Replace: true})
	s.ok(&SetAttr{attr.Change{Inode: d, SetMode: true, SetUID: true, SetGID: true, SetModified: true, Mode: 0o700, UID: 1, GID: 2, ModifiedNS: 3}})
	s.ok(&Reopen{File: f, Handle: h, Version: 2, Members: []NewMember{member(2), member(1), member(3)}})
	s.seal(h, 200)
	s.ok(&ServerGone{Server: 1, Max: 10})
	s.ok(&AddReplica{Handle: h, Version: 4, Copy: holders(uint32(h), 4)[0]})
	s.ok(&DropReplica{Handle: h, Version: 4, Server: 2, Reason: DropBad})
	s.ok(&SettleItems{Server: 2, Items: []quarry.Item{{Kind: quarry.ItemDrop, Handle: h, Version: 4}}})
	s.ok(&Remove{Parent: d, Name: "f"})
	s.time += 100
	s.ok(&Collect{KeepMS: 1, Max: 10})
	s.ok(&KeepSessions{Sessions: []quarry.SessionID{s.session}})
	s.transactions(d)
	s.time += 100
	s.ok(&ExpireSessions{ExpiryMS: 1})
	s.ok(&CloseSession{Session: 1})
	s.moves(d)
	for _, command := range s.log {
		all = binary.AppendUvarint(all, uint64(len(command)))
		all = append(all, command...)
	}
	return all
}

// transactions prepares parts of transactions that another shard coordinates, and finishes some.
func (s *shard) transactions(dir quarry.Inode) {
	id := TxID(quarry.MakeInode(9, 1))
	made := s.ok(&Prepare{Tx: id, Part: Part{Kind: PartNew, Slot: 5, Target: dir, Name: "n", Mode: 0o755}}).Part
	link := s.ok(&Prepare{Tx: id, Part: Part{
		Kind: PartLink, Inode: dir, Name: "n", Target: made.Inode, FileKind: quarry.KindDir, Replace: true,
	}}).Part
	s.refused(quarry.Busy, &Remove{Parent: dir, Name: "n"})
	s.ok(&Finish{Tx: id, Part: *made})
	s.ok(&Finish{Tx: id, Part: *link})
	empty := s.mkdir(dir, "empty")
	s.ok(&Prepare{Tx: id + 1, Part: Part{Kind: PartFreeze, Inode: empty}})
	s.ok(&Prepare{Tx: id + 1, Part: Part{Kind: PartMove, Inode: dir, Name: "m", Target: quarry.RootInode}})
	s.refused(quarry.NotFound, &Decide{Tx: id, Commit: true, Parts: []Part{*link}})
	s.ok(&Forget{Tx: id})
}

// moves has slots leave and others come, and the commands that undo it.
func (s *shard) moves(dir quarry.Inode) {
	s.session, s.seq = s.ok(&OpenSession{Slot: 4}).Session, 0
	h := s.owned(10, 1)
	some := []quarry.SlotRange{{First: 5, Last: 6}, {First: 4000, Last: quarry.Slots - 1}}
	s.ok(&BeginLeave{Move: 1, To: 2, Slots: some})
	s.ok(&OpenSession{Slot: 5})
	s.ok(&CancelLeave{Move: 1})
	s.ok(&BeginLeave{Move: 2, To: 2, Slots: some})
	s.ok(&OpenSession{Slot: 5})
	came := s.ok(&OpenSession{Slot: 4001}).Session
	s.ok(&ForgetChanges{Move: 2, Upto: 1})
	s.ok(&CloseSlots{Move: 2})
	s.ok(&Release{Move: 2})
	a, err := Handover(s.kv, 2, 1000)
	if err != nil {
		s.t.Fatal(err)
	}
	s.ok(&LeaveOver{Move: 2})
	s.ok(&CleanSlots{Max: 1})
	for s.ok(&CleanSlots{Max: 100}).More {
	}
	take := func(id move.ID, slots []quarry.SlotRange) {
		s.ok(&BeginTake{Move: id, From: 2, Slots: slots, Time: s.time + 50})
		s.ok(&Take{move.Batch{Move: id, Number: 1, Cursor: move.End(slots), Changes: a.Changes, Pairs: []move.Pair{
			{Key: sessionKey(nil, came), Value: wire.Marshal(nil, &SessionRecord{Seen: s.time}, sessionFields)},
			{Key: sessionKey(nil, came+1), Gone: true},
		}}})
	}
	take(3, some[1:])
	s.ok(&CancelTake{Move: 3})
	s.ok(&CleanSlots{Max: 100})
	take(4, some)
	a.Move = 4
	s.ok(a)
	s.session, s.seq = came, 0
	s.ok(&Link{Parent: dir, Name: "owned by another", Pieces: []quarry.LinkPiece{{Handle: h, Length: 10}}, Owner: s.record(h).Owner})
	s.ok(&Disown{Session: quarry.SessionID(quarry.MakeInode(8, 8))})
}

// commands cuts what script has put together, into 64 commands at most.
func commands(b []byte) (list [][]byte) {
	for len(b) > 0 && len(list) < 64 {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			break
		}
		b = b[size:]
		n = min(n, uint64(len(b)))
		list = append(list, b[:n])
		b = b[n:]
	}
	return list
}

func FuzzApply(f *testing.F) {
	seed := script(f)
	f.Add(seed)
	for _, command := range commands(seed) {
		f.Add(append(binary.AppendUvarint(nil, uint64(len(command))), command...))
	}
	s := newShard(f)
	s.transactions(s.mkdir(quarry.RootInode, "d"))
	s.do(&Make{Parent: quarry.RootInode, Name: "far", Kind: quarry.KindDir, Slot: 3000})
	s.do(&Rename{Parent: quarry.RootInode, Name: "f", ToParent: quarry.MakeInode(3000, 2), ToName: "g"})
	var all []byte
	for _, command := range s.log {
		all = append(binary.AppendUvarint(all, uint64(len(command))), command...)
	}
	f.Add(all)
	f.Fuzz(func(t *testing.T, b []byte) {
		last := quarry.Slot(quarry.Slots - 1)
		if len(b)%2 == 0 { // one of two shards
			last = 2047
		}
		s := newShardOf(t, last)
		s.openTail(s.touch(quarry.RootInode, "f"), 1, 2)
		s.owned(10, 1, 2)
		for _, command := range commands(b) {
			c, err := DecodeCommand(command)
			if err != nil {
				continue // it stops the node
			}
			switch c.Body.(type) {
			case *Finish, *Decide: // what one shard believes another one, is true only if that is a shard
				s.loose = true
			case *Activate, *Take: // the same of records; FuzzTake has them
				continue
			}
			before := s.kv.Copy()
			r := s.send(command) // checks the state
			if diff := difference(before, s.kv); r.Err != nil && diff != "" {
				t.Fatalf("%x was refused with %v and changed %s", command, r.Err, diff)
			}
		}
	})
}

func FuzzDecodeResult(f *testing.F) {
	s := newShard(f)
	file := s.touch(quarry.RootInode, "f")
	r := s.ok(&OpenTail{File: file, Chunk: s.chunk(1, 2)})
	f.Add(r.Append(nil))
	r = s.refused(quarry.NotFound, &Remove{Parent: quarry.RootInode, Name: "x", Dir: true})
	f.Add(r.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeResult(b)
		if err != nil {
			return
		}
		again := r.Append(nil)
		if r2, err := DecodeResult(again); err != nil || !bytes.Equal(r2.Append(nil), again) {
			t.Fatalf("%x became %x, %v", b, again, err)
		}
	})
}

func TestMalformedCommands(t *testing.T) {
	s := newShard(t)
	valid := s.encode(quarry.Op{}, &BeginSeal{Handle: 1, Version: 1})
	for name, command := range map[string][]byte{
		"empty": nil, "no kind": valid[2:], "unknown kind": append([]byte{8, 99}, valid[2:]...),
		"cut": valid[:len(valid)-1], "huge kind": append([]byte{8, 0xff, 0xff, 3}, valid[2:]...),
	} {
		before := s.kv.Copy()
		func() {
			defer func() {
				// The node must stop: others may know the command.
				if err, _ := recover().(error); !errors.Is(err, quarry.Unsupported) {
					t.Errorf("%s: %v", name, err)
				}
			}()
			s.m.Apply(s.kv, command)
		}()
		if diff := difference(before, s.kv); diff != "" {
			t.Errorf("%s changed %s", name, diff)
		}
	}
}

var rewrite = flag.Bool("rewrite", false, "write the golden files that have not been released")

// The files in testdata are a log and the state that it gives, as the release that made them
// wrote them. Once released they stay as they are, and the code must read them.
func TestGolden(t *testing.T) {
	if *rewrite {
		log := script(t)
		kv := NewMemory()
		var m Machine
		for _, command := range commands(log) {
			m.Apply(kv, command)
		}
		text := fmt.Sprintf("%x\n%x\n", log, flatten(kv))
		if err := os.WriteFile("testdata/v1.hex", []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob("testdata/*.hex")
	if err != nil || len(files) == 0 {
		t.Fatal("no golden files", err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		parts := strings.Fields(string(text))
		log, err1 := hex.DecodeString(parts[0])
		want, err2 := hex.DecodeString(parts[1])
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(path, err)
		}
		kv := NewMemory()
		var m Machine
		for _, command := range commands(log) {
			m.Apply(kv, command)
		}
		if got := flatten(kv); !bytes.Equal(got, want) {
			t.Errorf("%s: the log gives state %x, want %x", path, got, want)
		}
	}
}
