package sim

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/chunk"
	"github.com/quarryfs/quarry/raft"
	"github.com/quarryfs/quarry/sim/newest"
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
	s.observer.host, s.observer.masters = n.host, []*Host{newHost(n, "m", 9)}
	for i, name := range []string{"a", "b", "c"} {
		s.hosts = append(s.hosts, newHost(n, name, i+1))
		s.members = append(s.members, quarry.Member{Server: quarry.ServerID(i + 1), Incarnation: 1, Address: name + ":1"})
	}
	s.asked(&quarry.CreateRequest{ChunkRef: ref(sceneChunk, 1), File: sceneFile})
	for i := range s.hosts {
		s.created(s.server(i), &quarry.ChunkRef{Handle: sceneChunk, Version: 1})
	}
	s.activated(&quarry.ActivateRequest{ChunkRef: ref(sceneChunk, 1), Members: s.members})
	return s
}

// server is the process of a member.
func (s *scene) server(i int) *observedServer {
	m := s.members[i]
	return &observedServer{o: s.observer, p: &process{host: s.hosts[i]}, id: m.Server, incarnation: m.Incarnation}
}

// end has a member say where the chunk ends, by the right of its lease or without one.
func (s *scene) end(i int, confirm bool) {
	s.authorised(s.begin(), s.server(i), &quarry.EndRequest{ChunkRef: ref(sceneChunk, 1)}, &quarry.EndReply{Confirm: confirm})
}

// grant gives the first member a lease.
func (s *scene) grant() {
	s.granted(nil, s.log.w.Now(), &quarry.HeartbeatRequest{Server: 1, Incarnation: 1},
		&quarry.HeartbeatReply{Grants: []quarry.Grant{{Shard: 1, Slots: []quarry.SlotRange{{Last: quarry.Slots - 1}}, EndMS: 2000, ReadMS: 10000}}})
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

// told1 has a master tell of other members of group 1.
func (s *scene) told1(index uint64, voters, outgoing []quarry.NodeID) {
	s.holds(masterMajorities, s.hosts[0], s.groups.Changed(1, raft.Changed{Index: index, Term: 1, Voters: voters, Outgoing: outgoing}))
}

// removed has a node be a member of group 1, and then be none.
func (s *scene) removed(others, node quarry.NodeID) {
	s.told1(2, []quarry.NodeID{1, others, node}, nil)
	s.told1(4, []quarry.NodeID{1, others}, nil)
}

// outLong has a node that was removed answer a while later.
func (s *scene) outLong(node quarry.NodeID) {
	for group := quarry.RootShard; int(group) <= s.shards; group++ {
		s.out(memberKey{group, node}, s.hosts[2], false, s.log.w.Now())
	}
	s.log.w.Sleep(2 * outTime)
	s.answered(&process{host: s.hosts[2], node: node}, s.log.w.Now())
}

type forgetful struct{ quarry.Master }

func (forgetful) Lookup(context.Context, *quarry.LookupRequest) (*quarry.LookupReply, error) {
	return nil, quarry.Errorf("lookup", quarry.NotFound, "", "")
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
	{"a chunk is lost", "I2", func(s *scene) { s.told(s.begin(), &quarry.Chunk{Handle: sceneChunk, State: quarry.ChunkLost}) }},
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
		c.made, c.file = true, sceneFile
		c.acked.add(s.clock, 1)
		s.endSaid(sceneChunk, 3)
	}},
	{"records change their order", "I7", func(s *scene) {
		s.append(2, 0, "abc")
		s.append(1, 3, "abd")
	}},
	{"records change their order from chunk to chunk", "I7", func(s *scene) {
		c := s.chunk(nextChunk)
		c.made, c.file = true, sceneFile
		s.committed(nextChunk, sequence{9, 1}, 0, "")
		s.append(2, 0, "abc")
	}},
	{"leases are used in time", "", func(s *scene) {
		s.grant()
		s.log.w.Sleep(time.Second)
		s.end(0, false)
		s.log.w.Sleep(1200 * time.Millisecond)
		s.end(0, true)
		s.mayRead(s.server(0), sceneChunk)
		s.sealTold(sceneChunk, 2, 0, "")
		s.end(0, true)
	}},
	{"a secondary tells an end", "I9", func(s *scene) { s.end(1, true) }},
	{"an end after the lease", "I10", func(s *scene) {
		s.grant()
		s.log.w.Sleep(3 * time.Second)
		s.end(0, false)
	}},
	{"a read after the lease", "I10", func(s *scene) {
		s.grant()
		s.log.w.Sleep(11 * time.Second)
		s.mayRead(s.server(0), sceneChunk)
	}},
	{"an end by a lease after the seal", "I10", func(s *scene) {
		s.grant()
		s.sealTold(sceneChunk, 2, 0, "")
		s.begin()
		s.end(0, false)
	}},
	{"a version falls", "I1", func(s *scene) {
		s.told(s.begin(), &quarry.Chunk{Handle: sceneChunk, Version: 2})
		s.told(s.begin()+1, &quarry.Chunk{Handle: sceneChunk, Version: 1})
	}},
	{"a version begins with a member that has made nothing", "I1", func(s *scene) {
		members := append(s.members[:2:2], quarry.Member{Server: 9, Incarnation: 1, Address: "c:1"})
		s.named(&quarry.ActivateRequest{ChunkRef: ref(sceneChunk, 3), Members: members})
	}},
	{"a request for another incarnation", "N1", func(s *scene) {
		s.server(0).meant(&quarry.ChunkRef{Handle: sceneChunk, Version: 1, Target: 2}, "")
	}},
	{"what is said is not on the disk", "I2", func(s *scene) {
		for i := range 20 { // some answers are compared
			s.onDisk(s.hosts[0], sceneChunk+quarry.Handle(i), "", func(*chunk.State) bool { return true })
		}
	}},
	{"an ended session acts", "sessions", func(s *scene) {
		s.begin()
		s.sessionGone(4)
		s.sessionActs(s.begin(), 4)
	}},
	{"a session acts that a state does not have any more", "sessions", func(s *scene) {
		s.session(4).seen(s.begin(), 1, 10, true)
		s.session(4).seen(s.begin(), 1, 11, false)
		s.sessionActs(s.begin(), 4)
	}},
	{"a session acts that only older states and those of others do not have", "", func(s *scene) {
		s.session(4).seen(s.begin(), 1, 10, true)
		s.session(4).seen(s.begin(), 1, 10, false)
		s.session(4).seen(s.begin(), 2, 11, false)
		s.sessionActs(s.begin(), 4)
	}},
	{"a living session ends", "sessions", func(s *scene) {
		s.sessionKept(s.begin(), s.log.w.Now(), &quarry.SessionReply{Session: 4, ExpiryMS: 9000})
		s.sessionGone(4)
	}},
	{"a master does not know what was made", "masters", func(s *scene) {
		at := newest.Place{Dir: 1, Name: "a"}
		s.names.Settle(quarry.Op{}, nil, s.names.Touch(at), at)
		(&observedMaster{forgetful{}, s.observer, s.server(0).p}).probeNames(1)
	}},
	{"members change jointly", "", func(s *scene) {
		s.told1(2, []quarry.NodeID{1, 2, 3}, nil)
		s.told1(4, []quarry.NodeID{1, 4, 5}, []quarry.NodeID{1, 2, 3})
		s.told1(6, []quarry.NodeID{1, 4, 5}, nil)
		s.mastersJudged()
	}},
	{"members change at once", "majorities of", func(s *scene) {
		s.told1(2, []quarry.NodeID{1, 2, 3}, nil)
		s.told1(4, []quarry.NodeID{1, 4, 5}, nil)
		s.mastersJudged()
	}},
	{"a master leads that has just been removed", "", func(s *scene) {
		s.removed(2, 3)
		for range 20 {
			s.out(memberKey{1, 3}, s.hosts[2], true, s.log.w.Now())
			s.log.w.Sleep(outTime / 40)
		}
	}},
	{"a master leads that was removed long ago", "who was removed", func(s *scene) {
		s.removed(2, 3)
		for range 50 {
			s.out(memberKey{1, 3}, s.hosts[2], true, s.log.w.Now())
			s.log.w.Sleep(outTime / 40)
		}
	}},
	{"a master answers that was removed from one of two groups", "", func(s *scene) {
		s.shards = 2
		s.removed(2, 3)
		s.outLong(3)
	}},
	{"a master answers that was removed from all groups", "who was removed", func(s *scene) {
		s.shards = 1
		s.removed(2, 3)
		s.outLong(3)
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
