package raft

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	etcd "go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/crc32c"
	"github.com/quarryfs/quarry/wire"
)

// A follower that needs entries which the leader's log no longer has gets the leader's state
// instead. It travels outside of Raft's messages, as a stream:
//
//	 0  4  magic "QRS" and the version, 1
//	 4  4  length of the head, little-endian, like all numbers
//	 8  4  CRC32C of the head
//	12  .  head: a snapshotHead (wire)
//
// and then blocks:
//
//	0  4  length of the block's body, 0 in the last one
//	4  4  CRC32C of the body, or of what stands for it in the last one
//	8  .  body: keys and values, each behind a uvarint with its length, keys ascending,
//	      without the group's prefix; in the last block the number of keys, 8 bytes
//
// The first two keys are those of the applied index and of the members: the state says
// itself how far it has come and whose it is.
const (
	snapshotMagic    = "QRS\x01"
	snapshotHeadMax  = 4 << 10
	blockBytes       = 256 << 10 // a block ends when it has as many
	blockBytesMax    = blockBytes + KeyBytesMax + ValueBytesMax + 64
	groupPrefixBytes = 9

	// snapshotsMax is how many snapshots a node sends, and how many it takes, at once.
	snapshotsMax = 2
	// snapshotStall is how long a stream may stand still before it is given up.
	snapshotStall = 30 * time.Second
)

type snapshotHead struct {
	group groupID
	from  Member
	to    quarry.NodeID
	disk  quarry.DiskID // of to
	term  uint64        // of the leader
}

func snapshotHeadFields(w *wire.Walk, h *snapshotHead) {
	wire.Uint(w, 1, &h.group)
	wire.Message(w, 2, &h.from, memberFields)
	wire.Uint(w, 3, &h.to)
	wire.Fixed16(w, 4, &h.disk)
	wire.Uint(w, 5, &h.term)
}

// snapshots are the streams of a node.
type snapshots struct {
	h         *Host
	sending   chan struct{} // has an element for each stream under way
	receiving chan struct{}
}

// send streams the group's state to the node that a message of Raft names, and tells Raft
// how it went.
func (s *snapshots) send(g *group, m *pb.Message) {
	to, term := quarry.NodeID(m.GetTo()), m.GetTerm()
	promised := applied{m.Snapshot.GetMetadata().GetIndex(), m.Snapshot.GetMetadata().GetTerm()}
	s.h.spawn(func() {
		status := etcd.SnapshotFinish
		if err := s.stream(g, to, term, promised); err != nil {
			status = etcd.SnapshotFailure
			s.h.cfg.Logger.Warn("raft: snapshot not sent", "group", uint64(g.id), "node", uint64(to), "err", err)
		}
		g.call(func() { g.rn.ReportSnapshot(uint64(to), status) })
	})
}

func (s *snapshots) stream(g *group, to quarry.NodeID, term uint64, promised applied) error {
	p := s.h.peers.find(to)
	if p == nil {
		return quarry.Errorf("send snapshot", quarry.NotFound, g.name(), "node %d is not known", to)
	}
	select {
	case s.sending <- struct{}{}:
		defer func() { <-s.sending }()
	case <-s.h.stopping:
		return s.h.stopCause()
	}
	p.mu.Lock()
	member := p.member
	p.mu.Unlock()
	src, err := s.open(g, &snapshotHead{group: g.id, from: s.h.self, to: to, disk: member.Disk, term: term})
	if err != nil {
		return err
	}
	defer src.close()
	src.promised = promised
	ctx, cancel := context.WithCancel(s.h.life)
	defer cancel()
	src.ctx = ctx
	s.h.spawn(func() { src.watch(ctx, cancel) })
	err = s.h.cfg.Transport.SendSnapshot(ctx, member, src)
	if err == nil {
		s.h.cfg.Logger.Info("raft: snapshot sent", "group", uint64(g.id), "node", uint64(to), "keys", src.keys, "bytes", src.sent.Load())
	}
	return err
}

// snapshotSource is a stream that is being sent: an io.Reader over the group's keys as they
// were when it was opened.
type snapshotSource struct {
	ctx   context.Context
	g     *group
	it    *pebble.Iterator
	rate  int64 // bytes a second
	clock clock.Clock
	start clock.Instant
	sent  atomic.Int64
	ended atomic.Bool // all was read; what is left is the other side's work

	promised applied // what Raft was told of the state; it may have come further since

	buf  []byte // made, not read yet
	own  []byte // what buf is in
	keys uint64
	done bool
}

func (s *snapshots) open(g *group, head *snapshotHead) (*snapshotSource, error) {
	span := groupSpan(g.id)
	g.viewMu.RLock()
	it, err := s.h.store.db.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
	g.viewMu.RUnlock()
	if err != nil {
		return nil, quarry.Wrap("send snapshot", g.name(), err)
	}
	it.First()
	c := s.h.cfg.Clock
	src := &snapshotSource{g: g, it: it, rate: s.h.cfg.SnapshotBytesPerSecond, clock: c, start: c.Now()}
	src.own = appendSnapshotHead(nil, head)
	src.buf = src.own
	return src, nil
}

func appendSnapshotHead(b []byte, head *snapshotHead) []byte {
	body := wire.Marshal(nil, head, snapshotHeadFields)
	b = append(b, snapshotMagic...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(body)))
	b = binary.LittleEndian.AppendUint32(b, crc32c.Checksum(body))
	return append(b, body...)
}

// appendPair adds a key and its value to a block.
func appendPair(b, key, value []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(key)))
	b = append(b, key...)
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

// sealBlock fills in the head of a block.
func sealBlock(b []byte) []byte {
	binary.LittleEndian.PutUint32(b, uint32(len(b)-8))
	binary.LittleEndian.PutUint32(b[4:], crc32c.Checksum(b[8:]))
	return b
}

// lastBlock makes the last block of a stream.
func lastBlock(b []byte, keys uint64) []byte {
	b = append(b[:0], 0, 0, 0, 0, 0, 0, 0, 0)
	b = sealBlock(binary.LittleEndian.AppendUint64(b, keys))
	binary.LittleEndian.PutUint32(b, 0)
	return b
}

func (src *snapshotSource) close() { _ = src.it.Close() } // Read has told its errors

// watch ends the stream when nothing has been read of it for too long, but something is left.
func (src *snapshotSource) watch(ctx context.Context, cancel context.CancelFunc) {
	for before := int64(-1); ; {
		if src.clock.Sleep(ctx, snapshotStall) != nil {
			return
		}
		now := src.sent.Load()
		if src.ended.Load() {
			return
		}
		if now == before {
			cancel()
			return
		}
		before = now
	}
}

// Read implements io.Reader. It keeps to the rate.
func (src *snapshotSource) Read(b []byte) (int, error) {
	if len(src.buf) == 0 {
		if src.done {
			src.ended.Store(true)
			return 0, io.EOF
		}
		if !src.g.leading.Load() {
			return 0, src.g.notLeader("send snapshot")
		}
		due := src.start.Add(time.Duration(float64(src.sent.Load()) / float64(src.rate) * float64(time.Second)))
		if err := src.clock.Sleep(src.ctx, due.Sub(src.clock.Now())); err != nil {
			return 0, err
		}
		if err := src.fill(); err != nil {
			return 0, quarry.Wrap("send snapshot", src.g.name(), err)
		}
	}
	n := copy(b, src.buf)
	src.buf = src.buf[n:]
	src.sent.Add(int64(n))
	return n, nil
}

// fill makes the next block.
func (src *snapshotSource) fill() error {
	b := append(src.own[:0], 0, 0, 0, 0, 0, 0, 0, 0)
	for src.it.Valid() && len(b) < blockBytes {
		key := src.it.Key()[groupPrefixBytes:]
		value, err := src.it.ValueAndErr()
		if err != nil {
			return err
		}
		if off(SnapshotWithoutIndex) && key[0] == keyApplied {
			value = src.promised.encode(nil)
		}
		b = appendPair(b, key, value)
		src.keys++
		src.it.Next()
	}
	if err := src.it.Error(); err != nil {
		return err
	}
	if len(b) == 8 {
		b = lastBlock(b, src.keys)
		src.done = true
	} else {
		sealBlock(b)
	}
	src.own, src.buf = b, b
	return nil
}

// snapshotReader takes a stream apart.
type snapshotReader struct {
	r     io.Reader
	block []byte
	buf   []byte
	last  []byte // the key before
	keys  uint64
}

func refuseSnapshot(format string, args ...any) error {
	return quarry.Errorf("receive snapshot", quarry.Invalid, "", format, args...)
}

// head reads what stands before the blocks.
func (sr *snapshotReader) head() (snapshotHead, error) {
	var h snapshotHead
	var b [12]byte
	if _, err := io.ReadFull(sr.r, b[:]); err != nil {
		return h, quarry.Wrap("receive snapshot", "", err)
	}
	n := binary.LittleEndian.Uint32(b[4:])
	switch {
	case string(b[:3]) != snapshotMagic[:3]:
		return h, refuseSnapshot("this is not a snapshot")
	case b[3] != snapshotMagic[3]:
		return h, quarry.Errorf("receive snapshot", quarry.Unsupported, "", "the snapshot has version %d; this release reads version %d", b[3], snapshotMagic[3])
	case n > snapshotHeadMax:
		return h, refuseSnapshot("the head has %d bytes", n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(sr.r, body); err != nil {
		return h, quarry.Wrap("receive snapshot", "", err)
	}
	if crc32c.Checksum(body) != binary.LittleEndian.Uint32(b[8:]) {
		return h, quarry.Errorf("receive snapshot", quarry.Corrupt, "", "the head does not match its checksum")
	}
	if err := wire.Unmarshal(body, &h, snapshotHeadFields); err != nil {
		return h, quarry.Wrap("receive snapshot", "", err)
	}
	return h, nil
}

// next returns the next key and value, valid until the next call; io.EOF behind the last.
func (sr *snapshotReader) next() (key, value []byte, err error) {
	if len(sr.block) == 0 {
		if err := sr.nextBlock(); err != nil {
			return nil, nil, err
		}
	}
	d := decoder{b: sr.block}
	key = d.bytes(KeyBytesMax + 1)
	value = d.bytes(ValueBytesMax)
	if d.err != nil {
		return nil, nil, refuseSnapshot("key %d: %w", sr.keys, d.err)
	}
	if sr.keys > 0 && bytes.Compare(key, sr.last) <= 0 || len(key) == 0 {
		return nil, nil, refuseSnapshot("key %d does not follow the one before", sr.keys)
	}
	sr.block, sr.last = d.b, append(sr.last[:0], key...)
	sr.keys++
	return key, value, nil
}

func (sr *snapshotReader) nextBlock() error {
	var head [8]byte
	if _, err := io.ReadFull(sr.r, head[:]); err != nil {
		return quarry.Wrap("receive snapshot", "", noEOF(err))
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > blockBytesMax {
		return refuseSnapshot("a block has %d bytes", n)
	}
	last := n == 0
	if last {
		n = 8
	}
	if cap(sr.buf) < int(n) {
		sr.buf = make([]byte, n)
	}
	b := sr.buf[:n]
	if _, err := io.ReadFull(sr.r, b); err != nil {
		return quarry.Wrap("receive snapshot", "", noEOF(err))
	}
	switch {
	case crc32c.Checksum(b) != binary.LittleEndian.Uint32(head[4:]):
		return quarry.Errorf("receive snapshot", quarry.Corrupt, "", "the block behind key %d does not match its checksum", sr.keys)
	case last && binary.LittleEndian.Uint64(b) != sr.keys:
		return refuseSnapshot("%d keys have come, %d were sent", sr.keys, binary.LittleEndian.Uint64(b))
	case last:
		return io.EOF
	}
	sr.block = b
	return nil
}

// noEOF makes an end that comes too early an error that is not taken for the end.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
