package sim

import (
	"hash/crc32"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/quarryfs/quarry"
)

// scene is an observer with three servers, and a chunk of file 7 that they are members of.
type scene struct {
	*observer
	hosts   []*Host
	members []quarry.Member
}

const (
	sceneChunk = quarry.Handle(5)
	nextChunk  = quarry.Handle(6)
	sceneFile  = quarry.Inode(7)
)

func newScene(w *World) *scene {
	log := NewLog(w, nil)
	n := newNetwork(w, log)
	s := &scene{observer: newObserver(log)}
	s.observer.host = n.host
	for i, name := range []string{"a", "b", "c"} {
		s.hosts = append(s.hosts, newHost(n, name, i+1))
		s.members = append(s.members, quarry.Member{Server: quarry.ServerID(i + 1), Incarnation: 1, Address: name + ":1"})
	}
	s.asked(&quarry.CreateRequest{ChunkRef: ref(sceneChunk, 1), File: sceneFile})
	s.activated(&quarry.ActivateRequest{ChunkRef: ref(sceneChunk, 1), Members: s.members})
	return s
}

func ref(h quarry.Handle, v quarry.Version) quarry.ChunkRef {
	return quarry.ChunkRef{Handle: h, Version: v}
}

// write makes bytes of the scene's chunk durable on some of the hosts.
func (s *scene) write(offset int64, data string, hosts ...*Host) {
	for _, h := range hosts {
		_ = h.disk.mem.MkdirAll("chunks/05")
		f, err := h.disk.mem.Open("chunks/05/0000000000000005")
		if err != nil {
			f, _ = h.disk.mem.Create("chunks/05/0000000000000005")
			_ = h.disk.mem.SyncDir("chunks/05")
		}
		_, _ = f.WriteAt([]byte(data), offset)
		_ = f.Sync()
		s.isDurable(h, sceneChunk, offset+int64(len(data)))
	}
}

// append writes a record everywhere and acknowledges it.
func (s *scene) append(number quarry.Sequence, offset int64, data string) {
	s.write(offset, data, s.hosts...)
	s.ack(number, offset, data)
}

func (s *scene) ack(number quarry.Sequence, offset int64, data string) {
	from := s.begin()
	s.acknowledged(from, s.hosts[0], &quarry.AppendRequest{ChunkRef: ref(sceneChunk, 1), Session: 9, Sequence: number, Data: []byte(data)}, offset)
	s.begin() // what follows is later
}

func (s *scene) endSaid(h quarry.Handle, commit int64) {
	s.endTold(s.begin(), s.hosts[0], &quarry.EndRequest{ChunkRef: ref(h, 1)}, &quarry.EndReply{Commit: commit})
	s.begin()
}

func (s *scene) fate(number quarry.Sequence, state quarry.FateState, offset int64) {
	s.fates(s.hosts[1], &quarry.FateRequest{ChunkRef: ref(sceneChunk, 2), Session: 9},
		&quarry.FateReply{Version: 2, Length: 6, Fates: []quarry.Fate{{Sequence: number, State: state, Offset: offset}}})
}

// Each case does something that must never be seen, and names the invariant that it breaks;
// "" if nothing is broken.
var checkCases = []struct {
	name, breaks string
	play         func(s *scene)
}{
	{"an orderly life", "", func(s *scene) {
		s.append(1, 0, "abc")
		s.commitTold(&quarry.ChunkRef{Handle: sceneChunk, Version: 1}, 3, "")
		s.endSaid(sceneChunk, 3)
		s.append(2, 3, "def")
		s.fenced(s.hosts[0], &quarry.FenceRequest{ChunkRef: ref(sceneChunk, 2)},
			&quarry.FenceReply{Version: 2, Incarnation: 1, Status: quarry.ReplicaGood, LogVersion: 1, DurableLength: 6})
		s.sealTold(sceneChunk, 2, 6, "")
		s.fate(2, quarry.FateCommitted, 3)
		s.fate(3, quarry.FateAbsent, 0)
		s.shown(s.hosts[2], sceneChunk, 1, []byte("bcd"), "")
	}},
	{"a lower version is obeyed", "I1", func(s *scene) {
		s.promised(s.hosts[0], sceneChunk, 2)
		s.append(1, 0, "abc")
	}},
	{"two primaries", "I1", func(s *scene) {
		s.activated(&quarry.ActivateRequest{ChunkRef: ref(sceneChunk, 1), Members: s.members[1:]})
	}},
	{"one member does not have it", "I2", func(s *scene) {
		s.write(0, "abc", s.hosts[:2]...)
		s.ack(1, 0, "abc")
	}},
	{"one member has other bytes", "I2", func(s *scene) {
		s.write(0, "abc", s.hosts[:2]...)
		s.write(0, "abd", s.hosts[2])
		s.ack(1, 0, "abc")
	}},
	{"a member has written and not synced", "I2", func(s *scene) {
		s.append(1, 0, "abc")
		s.write(3, "def", s.hosts[:2]...)
		f, _ := s.hosts[2].disk.mem.Open("chunks/05/0000000000000005")
		_, _ = f.WriteAt([]byte("def"), 3)
		s.ack(2, 3, "def")
	}},
	{"a fenced member has lost it", "I2", func(s *scene) {
		s.append(1, 0, "abc")
		s.fenced(s.hosts[1], &quarry.FenceRequest{ChunkRef: ref(sceneChunk, 2)},
			&quarry.FenceReply{Version: 2, Incarnation: 1, Status: quarry.ReplicaGood, LogVersion: 1, DurableLength: 2})
	}},
	{"a chunk is lost", "I2", func(s *scene) { s.told(&quarry.Chunk{Handle: sceneChunk, State: quarry.ChunkLost}) }},
	{"a commit runs ahead", "I3", func(s *scene) {
		s.write(0, "abc", s.hosts[:2]...)
		s.commitTold(&quarry.ChunkRef{Handle: sceneChunk, Version: 1}, 3, "")
	}},
	{"a replica shows other bytes", "I4", func(s *scene) {
		s.append(1, 0, "abc")
		s.shown(s.hosts[2], sceneChunk, 1, []byte("x"), "")
	}},
	{"a seal cuts what is acknowledged", "I5", func(s *scene) {
		s.append(1, 0, "abc")
		s.sealTold(sceneChunk, 2, 2, "")
	}},
	{"an end is told, and sealed below", "I5", func(s *scene) {
		s.write(0, "abc", s.hosts...)
		s.endSaid(sceneChunk, 3)
		s.sealTold(sceneChunk, 2, 2, "")
	}},
	{"it is acknowledged behind the seal", "I5", func(s *scene) {
		s.sealTold(sceneChunk, 2, 2, "")
		s.append(1, 0, "abc")
	}},
	{"a seal changes", "I6", func(s *scene) {
		s.sealTold(sceneChunk, 2, 2, "")
		s.sealTold(sceneChunk, 2, 3, "")
	}},
	{"a record stands twice", "I7", func(s *scene) {
		s.append(1, 0, "abc")
		s.append(1, 3, "abc")
	}},
	{"absent, and acknowledged before", "I8", func(s *scene) {
		s.append(1, 0, "abc")
		s.fate(1, quarry.FateAbsent, 0)
	}},
	{"absent, and committed later", "I8", func(s *scene) {
		s.fate(1, quarry.FateAbsent, 0)
		s.fate(1, quarry.FateCommitted, 0)
	}},
	{"an end is stale", "I9", func(s *scene) {
		s.append(1, 0, "abc")
		s.endSaid(sceneChunk, 2)
	}},
	{"the file has gone on", "I9", func(s *scene) {
		s.append(1, 0, "abc")
		c := s.chunk(nextChunk)
		c.made, c.file, c.position = true, sceneFile, 3
		c.acked.add(s.clock, 1)
		s.endSaid(sceneChunk, 3)
	}},
	{"a length falls", "I12", func(s *scene) {
		s.lengthTold(s.begin(), &quarry.Attr{Kind: quarry.KindFile, Inode: sceneFile, Length: 3})
		s.lengthTold(s.begin()+1, &quarry.Attr{Kind: quarry.KindFile, Inode: sceneFile, Length: 2})
	}},
	{"a handle is used again", "I13", func(s *scene) {
		s.asked(&quarry.CreateRequest{ChunkRef: ref(sceneChunk, 1), File: sceneFile + 1})
	}},
}

func TestCheckers(t *testing.T) {
	for _, c := range checkCases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := NewWorld(1)
				defer w.Close()
				s := newScene(w)
				c.play(s)
				found := s.violations()
				switch {
				case c.breaks == "" && len(found) > 0:
					t.Fatalf("what is right is violated: %v", found)
				case c.breaks != "" && (len(found) == 0 || !strings.HasPrefix(found[0], c.breaks+" ")):
					t.Fatalf("it breaks %s; what was found: %v", c.breaks, found)
				}
			})
		})
	}
}

// Bytes that rot on a disk and go with the checksums they had are not shown to anybody.
func TestRottenReadIsNoAnswer(t *testing.T) {
	data := []byte("abcdef")
	reply := &quarry.ReadReply{Data: data, CRCs: []uint32{crc32.Checksum(data[:4], castagnoli), crc32.Checksum(data[4:], castagnoli)}}
	at := int64(quarry.BlockBytes - 4)
	if !matches(reply, at) {
		t.Error("bytes that match are refused")
	}
	for i := range data {
		data[i] ^= 4
		if matches(reply, at) {
			t.Errorf("byte %d is wrong and passes", i)
		}
		data[i] ^= 4
	}
}
