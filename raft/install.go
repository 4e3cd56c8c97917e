package raft

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"

	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/wire"
)

// tableBytes is the size at which a received snapshot begins its next table.
const tableBytes = 64 << 20

// installation is a snapshot on its way into this node: received into tables beside the
// store, offered to Raft, and, if Raft wants it, taken into the store in one step. A crash
// before that step leaves the old state and some files that Open removes; a crash after it
// the new state, with a log that Open then moves up to it.
type installation struct {
	head    snapshotHead
	state   groupState
	paths   []string
	message *pb.Message // Raft's order to install it
	done    chan error  // has room for the one outcome
}

// ReceiveSnapshot takes a stream that another node's Transport sends, and returns when the
// state is installed, or was found to be older than what is here. Errors are those of
// Deliver, Busy if too many snapshots are coming in, NotFound if the node has no such group.
func (h *Host) ReceiveSnapshot(ctx context.Context, body io.Reader) error {
	select {
	case h.snapshots.receiving <- struct{}{}:
		defer func() { <-h.snapshots.receiving }()
	default:
		return quarry.Errorf("receive snapshot", quarry.Busy, "", "%d snapshots are coming in already", snapshotsMax)
	}
	sr := &snapshotReader{r: bufio.NewReaderSize(body, 64<<10)}
	head, err := sr.head()
	if err != nil {
		return err
	}
	if err := h.admit(&envelope{from: head.from, to: head.to, disk: head.disk}); err != nil {
		return err
	}
	g, err := h.group("receive snapshot", head.group)
	if err != nil {
		return err
	}
	inst := &installation{head: head, done: make(chan error, 1)}
	defer inst.remove(h.store.fs)
	if err := inst.receive(ctx, h, sr); err != nil {
		return err
	}
	g.call(func() { g.offer(inst) })
	select {
	case err := <-inst.done:
		return err
	case <-h.stopping:
		return h.stopCause()
	}
}

// incomingDir is where snapshots are received.
func (s *store) incomingDir() string { return s.fs.PathJoin(s.dir, "incoming") }

// receive writes the stream into tables.
func (inst *installation) receive(ctx context.Context, h *Host, sr *snapshotReader) error {
	var w *sstable.Writer
	defer func() {
		if w != nil {
			_ = w.Close() // the stream has failed, the table is removed
		}
	}()
	number := rand.Uint64() // nobody else's, not even of a host before on this folder
	prefix := groupSpan(inst.head.group).Start
	full := make([]byte, 0, len(prefix)+KeyBytesMax+1)
	for {
		key, value, err := sr.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = ctx.Err()
		}
		if err == nil && h.life.Err() != nil {
			err = h.stopCause()
		}
		if err == nil {
			err = inst.inspect(sr.keys, key, value)
		}
		if err == nil && w == nil {
			path := h.store.fs.PathJoin(h.store.incomingDir(), fmt.Sprintf("%016x-%d.sst", number, len(inst.paths)))
			w, err = inst.create(h.store, path)
		}
		if err == nil {
			full = append(append(full[:0], prefix...), key...)
			err = w.Set(full, value)
		}
		if err == nil && w.Raw().EstimatedSize() >= tableBytes {
			full := w
			w = nil
			err = full.Close()
		}
		if err != nil {
			return quarry.Wrap("receive snapshot", fmt.Sprintf("group %d", inst.head.group), err)
		}
	}
	if inst.state.applied.index == 0 || len(inst.state.members.voters) == 0 {
		return refuseSnapshot("the state does not say how far it has come")
	}
	if w == nil {
		return nil
	}
	last := w
	w = nil
	return quarry.Wrap("receive snapshot", fmt.Sprintf("group %d", inst.head.group), last.Close())
}

// inspect takes from the first two keys what Raft must know of the state.
func (inst *installation) inspect(number uint64, key, value []byte) (err error) {
	want := map[uint64]byte{1: keyApplied, 2: keyMembers}[number]
	switch {
	case want == 0 && key[0] != keyData, want != 0 && (key[0] != want || len(key) != 1):
		return refuseSnapshot("key %d is of kind %d", number, key[0])
	case want == keyApplied:
		inst.state.applied, err = decodeApplied(value)
	case want == keyMembers:
		err = wire.Unmarshal(value, &inst.state.members, membersFields)
	}
	return err
}

// create begins a table.
func (inst *installation) create(s *store, path string) (*sstable.Writer, error) {
	f, err := s.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, disk.Wrap("write", path, err)
	}
	inst.paths = append(inst.paths, path)
	return sstable.NewWriter(objstorageprovider.NewFileWritable(f), s.opts.MakeWriterOptions(0, s.tables)), nil
}

// remove removes the tables that the store has not taken.
func (inst *installation) remove(fs vfs.FS) {
	for _, path := range inst.paths {
		_ = fs.Remove(path) // usually it is gone; if not, Open removes it
	}
}

// offer tells Raft of a snapshot that was received. Raft either has no use for it, or orders
// its installation before it wants anything else.
func (g *group) offer(inst *installation) {
	if g.installing != nil {
		inst.done <- quarry.Errorf("receive snapshot", quarry.Busy, g.name(), "another snapshot is being installed")
		return
	}
	a := inst.state.applied
	g.arrived = inst
	g.step(&pb.Message{
		Type: pb.MsgSnap.Enum(), From: new(uint64(inst.head.from.Node)), To: new(uint64(g.h.cfg.Node)), Term: new(inst.head.term),
		Snapshot: &pb.Snapshot{Metadata: &pb.SnapshotMetadata{Index: &a.index, Term: &a.term, ConfState: inst.state.members.conf()}},
	})
	g.ready(nil)
	if g.arrived != nil {
		g.arrived = nil
		inst.done <- nil
	}
}

// install carries out Raft's order to install the snapshot that has arrived. What else Raft
// wants logged waits until it is done.
func (g *group) install(m *pb.Message) {
	inst := g.arrived
	if inst == nil || inst.state.applied.index != m.Snapshot.GetMetadata().GetIndex() {
		panic(fmt.Sprintf("raft: group %d: Raft wants a snapshot installed that was not received", g.id))
	}
	inst.message = m
	g.arrived, g.installing = nil, inst
	g.applier.push(applyJob{install: inst})
}

// runInstall replaces the group's state. The applier calls it.
func (g *group) runInstall(inst *installation) error {
	g.viewMu.Lock()
	g.changes.Add(1)
	g.cache.clear(inst.state.applied.index)
	err := g.h.store.install(context.Background(), g.id, inst.paths) // half-way there is no way back
	if err == nil {
		g.appliedAt.Store(inst.state.applied.index)
	}
	g.changes.Add(1)
	g.viewMu.Unlock()
	if err != nil {
		return quarry.Wrap("install snapshot", g.name(), err)
	}
	if sm, ok := g.sm.(Installer); ok {
		r := newReader(g.h.store.db, g.id)
		sm.Installed(&r)
	}
	g.told(inst.state.applied, &inst.state.members, true)
	g.call(func() { g.installed(inst) })
	return nil
}

// installed moves the log up to the installed state, and lets go what has waited.
func (g *group) installed(inst *installation) {
	a := inst.state.applied
	g.log.reset(a.index, a.term)
	g.members.Store(&inst.state.members)
	g.h.peers.learn(&inst.state.members)
	g.h.cfg.Logger.Info("raft: snapshot installed", "group", uint64(g.id), "index", a.index, "from", uint64(inst.head.from.Node))
	g.appliedTo = a.index
	g.writeBase(recordReset, inst.message.Responses, func() { inst.done <- nil })
	g.installing = nil
	held := g.held
	g.held = nil
	for _, m := range held {
		g.append(m)
	}
}

// writeBase writes where the log begins.
func (g *group) writeBase(kind byte, responses []*pb.Message, then func()) {
	at := &place{}
	g.log.head, g.written = at, g.log.hard
	g.w.buf = encodeBase(g.w.buf[:0], kind, g.id, g.log.hard, g.log.base, g.log.baseTerm)
	g.write(&logOp{places: []*place{at}, responses: responses, then: then}, g.w.buf)
}
