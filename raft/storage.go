package raft

import (
	"fmt"

	etcd "go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// storage shows a group's log to Raft. Raft calls it on the group's worker only.
//
// The log already has the entries that are on their way to the disk. Raft does not mind: it
// keeps these itself until it hears that they are durable, and looks there first.
type storage struct{ g *group }

// InitialState implements etcd.Storage.
func (s storage) InitialState() (*pb.HardState, *pb.ConfState, error) {
	h := s.g.log.hard
	return &pb.HardState{Term: new(h.term), Vote: new(h.vote), Commit: new(h.commit)}, s.g.members.Load().conf(), nil
}

// Entries implements etcd.Storage.
func (s storage) Entries(lo, hi, maxSize uint64) ([]*pb.Entry, error) {
	l := s.g.log
	if lo <= l.base {
		return nil, etcd.ErrCompacted
	}
	if hi > l.last+1 || lo >= hi {
		return nil, etcd.ErrUnavailable
	}
	return l.entries(lo, hi, maxSize)
}

// Term implements etcd.Storage.
func (s storage) Term(i uint64) (uint64, error) {
	l := s.g.log
	if i < l.base {
		return 0, etcd.ErrCompacted
	}
	if i > l.last {
		return 0, etcd.ErrUnavailable
	}
	return l.term(i), nil
}

// LastIndex implements etcd.Storage.
func (s storage) LastIndex() (uint64, error) { return s.g.log.last, nil }

// FirstIndex implements etcd.Storage.
func (s storage) FirstIndex() (uint64, error) { return s.g.log.base + 1, nil }

// Snapshot implements etcd.Storage. It is a promise only: the state that is sent is read
// when it is sent, and may then be a later one.
func (s storage) Snapshot() (*pb.Snapshot, error) {
	a := s.g.appliedTo
	if a == 0 {
		return nil, fmt.Errorf("group %d has no state to send", s.g.id)
	}
	return &pb.Snapshot{Metadata: &pb.SnapshotMetadata{
		Index: new(a), Term: new(s.g.log.term(a)), ConfState: s.g.members.Load().conf(),
	}}, nil
}
