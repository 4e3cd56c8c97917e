package meta

import (
	"errors"
	"fmt"
	"testing"

	"github.com/quarryfs/quarry"
)

// shard is a state machine under test: it checks the whole state after every command.
type shard struct {
	t       testing.TB
	kv      *Memory
	m       Machine
	time    LogTime
	wall    int64
	log     [][]byte // all commands
	session quarry.SessionID
	seq     quarry.Sequence
	handle  uint64 // numbers reserved: from handle to the header's next
	quick   bool   // do not check the state
	loose   bool   // do not check that inodes and entries agree
}

// newShard returns a shard that owns all slots, with one session and reserved handles.
func newShard(t testing.TB) *shard { return newShardOf(t, quarry.Slots-1) }

// newShardOf is newShard for a shard that owns the slots up to one.
func newShardOf(t testing.TB, last quarry.Slot) *shard {
	s := &shard{t: t, kv: NewMemory(), time: 1000, wall: 1e18}
	s.ok(&Init{Slots: []quarry.SlotRange{{First: 0, Last: last}}})
	s.session = s.ok(&OpenSession{Slot: 7}).Session
	r := s.ok(&ReserveHandles{Term: 1, Count: 1000})
	s.handle = r.Range.First
	return s
}

// send applies a command's bytes and checks the state.
func (s *shard) send(command []byte) *Result {
	s.t.Helper()
	s.log = append(s.log, command)
	r, err := DecodeResult(s.m.Apply(s.kv, command))
	if err != nil {
		s.t.Fatal(err)
	}
	if s.quick {
		return r
	}
	if wrong := check(s.kv, s.loose); wrong != "" {
		c, _ := DecodeCommand(command)
		s.t.Fatalf("after %T %+v: %s", c.Body, c.Body, wrong)
	}
	return r
}

func (s *shard) encode(op quarry.Op, b Body) []byte {
	s.t.Helper()
	s.wall++
	c := Command{Time: s.time, WallNS: s.wall, Op: op, Body: b}
	command, err := c.Append(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return command
}

// do applies a command; one that belongs to a session is the next of the shard's session.
func (s *shard) do(b Body) *Result {
	s.t.Helper()
	var op quarry.Op
	if verbs[b.kind()].once {
		s.seq++
		op = quarry.Op{Session: s.session, Sequence: s.seq, Oldest: s.seq}
	}
	return s.send(s.encode(op, b))
}

func (s *shard) ok(b Body) *Result {
	s.t.Helper()
	r := s.do(b)
	if r.Err != nil {
		s.t.Fatalf("%+v: %v", b, r.Err)
	}
	return r
}

// refused wants the command to be refused with a kind, and to change nothing.
func (s *shard) refused(kind quarry.Kind, b Body) *Result {
	s.t.Helper()
	before := s.kv.Copy()
	r := s.do(b)
	if !errors.Is(r.Err, kind) {
		s.t.Fatalf("%T %+v: %v, want %v", b, b, r.Err, kind)
	}
	if diff := difference(before, s.kv); diff != "" {
		s.t.Fatalf("%T %+v was refused and changed %s", b, b, diff)
	}
	return r
}

// difference returns the first key in which two states differ, but for the header and the
// results of sessions.
func difference(a, b *Memory) string {
	flat := func(m *Memory) map[string]string {
		all := map[string]string{}
		m.Scan(nil, nil, func(key, value []byte) bool {
			own := key[0] == 0xff
			if own && key[2] != tableHeader || !own && key[2] != tableResult {
				all[string(key)] = string(value)
			}
			return true
		})
		return all
	}
	x, y := flat(a), flat(b)
	for k := range x {
		if v, ok := y[k]; !ok || v != x[k] {
			return fmt.Sprintf("key %x", k)
		}
	}
	for k := range y {
		if _, ok := x[k]; !ok {
			return fmt.Sprintf("key %x", k)
		}
	}
	return ""
}

func (s *shard) mkdir(parent quarry.Inode, name string) quarry.Inode {
	s.t.Helper()
	return s.ok(&Make{Parent: parent, Name: name, Kind: quarry.KindDir, Mode: 0o755}).Attr.Inode
}

func (s *shard) touch(parent quarry.Inode, name string) quarry.Inode {
	s.t.Helper()
	return s.ok(&Make{Parent: parent, Name: name, Kind: quarry.KindFile, Mode: 0o644}).Attr.Inode
}

// chunk returns a chunk that servers have made and no command has opened.
func (s *shard) chunk(servers ...quarry.ServerID) NewChunk {
	s.handle++
	c := NewChunk{Handle: quarry.MakeHandle(0, s.handle-1), Wanted: uint8(len(servers))}
	for _, id := range servers {
		c.Members = append(c.Members, member(id))
	}
	return c
}

func member(id quarry.ServerID) NewMember {
	return NewMember{Server: id, Incarnation: quarry.Incarnation(id) * 10, Disk: quarry.DiskID{byte(id)}}
}

func holders(crc uint32, servers ...quarry.ServerID) (list []Holder) {
	for _, id := range servers {
		list = append(list, Holder{NewMember: member(id), CRC: crc})
	}
	return list
}

func verdicts(v Verdict, servers ...quarry.ServerID) (list []MemberVerdict) {
	for _, id := range servers {
		list = append(list, MemberVerdict{Server: id, Verdict: v})
	}
	return list
}

// openTail opens a chunk at the end of a file.
func (s *shard) openTail(file quarry.Inode, servers ...quarry.ServerID) quarry.Handle {
	s.t.Helper()
	c := s.chunk(servers...)
	c.Handle = quarry.MakeHandle(file.Slot(), c.Handle.Number())
	tail, err := Tail(s.kv, file)
	if err != nil {
		s.t.Fatal(err)
	}
	open := &OpenTail{File: file, Session: s.session, Chunk: c}
	if tail.Chunk != nil {
		open.Last, open.Version = tail.Chunk.Handle, tail.Chunk.Version
	}
	s.ok(open)
	return c.Handle
}

// seal seals a chunk whose members are all good; they confirm it.
func (s *shard) seal(h quarry.Handle, length int64) *ChunkRecord {
	s.t.Helper()
	c := s.ok(&BeginSeal{Handle: h, Version: s.record(h).Version}).Chunk
	var servers []quarry.ServerID
	for _, r := range c.Replicas {
		servers = append(servers, r.Server)
	}
	s.ok(&Seal{Handle: h, Version: c.Version, Length: length, Members: verdicts(VerdictGood, servers...)})
	return s.ok(&Hold{Handle: h, Version: c.Version, Holders: holders(uint32(h), servers...)}).Chunk
}

// owned opens a chunk for the session and seals it.
func (s *shard) owned(length int64, servers ...quarry.ServerID) quarry.Handle {
	s.t.Helper()
	c := s.chunk(servers...)
	s.ok(&OpenOwned{Chunks: []NewChunk{c}})
	s.seal(c.Handle, length)
	return c.Handle
}

func (s *shard) record(h quarry.Handle) *ChunkRecord {
	s.t.Helper()
	st := reading(s.kv)
	c := st.chunk(h)
	if c == nil {
		s.t.Fatalf("chunk %v has no record", h)
	}
	return c
}

func (s *shard) gone(h quarry.Handle) bool {
	st := reading(s.kv)
	return st.chunk(h) == nil
}

func (s *shard) lookup(path string) (quarry.Attr, error) {
	r, err := Lookup(s.kv, &quarry.LookupRequest{From: quarry.RootInode, Path: path}, nil)
	if err != nil {
		return quarry.Attr{}, err
	}
	return r.Attr, nil
}

func (s *shard) states(h quarry.Handle) (list []ReplicaState) {
	s.t.Helper()
	for _, r := range s.record(h).Replicas {
		list = append(list, r.State)
	}
	return list
}
