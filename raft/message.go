package raft

import (
	"encoding/binary"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/crc32c"
)

const (
	batchMagic = "QRB\x01" // the last byte is the version
	// BatchBytesMax is the largest batch of messages that a node sends or takes.
	BatchBytesMax = 16 << 20
	// messageBytesMax is the size to which Raft fills its messages with entries.
	messageBytesMax = 512 << 10

	batchHeaderBytes = 58
	addressBytesMax  = 261 // a host name of 255 bytes, a colon and a port
	contextBytesMax  = 64
)

// envelope is the head of a batch: which node, on which disk, sends it to which.
type envelope struct {
	from Member
	to   quarry.NodeID
	disk quarry.DiskID // of to, as from knows it
}

// A batch holds the messages of all groups from one node to another. Integers are
// little-endian.
//
//	 0  4  magic "QRB" and the version, 1
//	 4  4  CRC32C of all that follows
//	 8  8  sender's node
//	16 16  sender's disk
//	32  8  receiver's node
//	40 16  receiver's disk
//	56  2  length of the sender's address
//	58  .  sender's address
//
// and then messages, each behind 4 bytes with its length:
//
//	uvarint  group
//	byte     type (Raft's MessageType)
//	byte     1 if it rejects, else 0
//	uvarint  term, term of the log at index, index, commit, reject hint: one each
//	uvarint  length of the context, and the context
//	uvarint  number of entries, and the entries (see appendEntry), from index+1
func appendEnvelope(b []byte, e *envelope) []byte {
	b = append(b, batchMagic...)
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, uint64(e.from.Node))
	b = append(b, e.from.Disk[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(e.to))
	b = append(b, e.disk[:]...)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(e.from.Address)))
	return append(b, e.from.Address...)
}

// sealBatch fills in the checksum.
func sealBatch(b []byte) {
	binary.LittleEndian.PutUint32(b[4:], crc32c.Checksum(b[8:]))
}

// openBatch checks a batch and returns its head and the messages.
func openBatch(b []byte) (envelope, []byte, error) {
	var e envelope
	refuse := func(format string, args ...any) (envelope, []byte, error) {
		return e, nil, quarry.Errorf("raft batch", quarry.Invalid, "", format, args...)
	}
	switch {
	case len(b) > BatchBytesMax:
		return e, nil, quarry.Errorf("raft batch", quarry.TooLarge, "", "the batch has %d bytes, at most %d are allowed", len(b), BatchBytesMax)
	case len(b) < batchHeaderBytes || string(b[:3]) != batchMagic[:3]:
		return refuse("this is not a batch of messages")
	case b[3] != batchMagic[3]:
		return e, nil, quarry.Errorf("raft batch", quarry.Unsupported, "", "the batch has version %d; this release reads version %d", b[3], batchMagic[3])
	case crc32c.Checksum(b[8:]) != binary.LittleEndian.Uint32(b[4:]):
		return e, nil, quarry.Errorf("raft batch", quarry.Corrupt, "", "the batch does not match its checksum")
	}
	e.from.Node = quarry.NodeID(binary.LittleEndian.Uint64(b[8:]))
	e.from.Disk = quarry.DiskID(b[16:32])
	e.to = quarry.NodeID(binary.LittleEndian.Uint64(b[32:]))
	e.disk = quarry.DiskID(b[40:56])
	n := int(binary.LittleEndian.Uint16(b[56:]))
	if n > addressBytesMax || n > len(b)-batchHeaderBytes {
		return refuse("the sender's address has %d bytes", n)
	}
	e.from.Address = string(b[batchHeaderBytes:][:n])
	if e.from.Node == 0 || e.from.Disk.IsZero() {
		return refuse("the sender does not say who it is")
	}
	return e, b[batchHeaderBytes+n:], nil
}

// travels tells which messages go from node to node in batches.
var travels = map[pb.MessageType]bool{
	pb.MsgApp: true, pb.MsgAppResp: true, pb.MsgVote: true, pb.MsgVoteResp: true,
	pb.MsgPreVote: true, pb.MsgPreVoteResp: true, pb.MsgHeartbeat: true,
	pb.MsgHeartbeatResp: true, pb.MsgTimeoutNow: true,
}

// messageSize is an upper bound of what appendMessage appends.
func messageSize(m *pb.Message) int {
	n := 4 + 2 + 8*binary.MaxVarintLen64 + len(m.Context)
	for _, e := range m.Entries {
		n += entryBytes(e)
	}
	return n
}

// appendMessage appends a message of a type that travels.
func appendMessage(b []byte, id groupID, m *pb.Message) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	b = binary.AppendUvarint(b, uint64(id))
	b = append(b, byte(m.GetType()))
	if m.GetReject() {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	for _, v := range [...]uint64{m.GetTerm(), m.GetLogTerm(), m.GetIndex(), m.GetCommit(), m.GetRejectHint(), uint64(len(m.Context))} {
		b = binary.AppendUvarint(b, v)
	}
	b = append(b, m.Context...)
	b = binary.AppendUvarint(b, uint64(len(m.Entries)))
	for _, e := range m.Entries {
		b = appendEntry(b, e)
	}
	binary.LittleEndian.PutUint32(b[start:], uint32(len(b)-start-4))
	return b
}

// nextMessage takes the first message off b and returns its body and the rest.
func nextMessage(b []byte) (body, rest []byte, err error) {
	if len(b) < 4 || uint64(binary.LittleEndian.Uint32(b)) > uint64(len(b)-4) {
		return nil, nil, quarry.Errorf("raft batch", quarry.Invalid, "", "the last message is cut short")
	}
	n := binary.LittleEndian.Uint32(b)
	return b[4:][:n], b[4+n:], nil
}

// received is a message with the values its pointers lead to.
type received struct {
	m                                  pb.Message
	typ                                pb.MessageType
	to, from                           uint64
	term, logTerm, index, commit, hint uint64
	reject                             bool
	bytes                              int // what it takes in memory, about
}

// decodeMessage reads a message that has come from a node.
func decodeMessage(b []byte, from, to quarry.NodeID) (groupID, *received, error) {
	d := decoder{b: b}
	r := &received{from: uint64(from), to: uint64(to)}
	id := groupID(d.uvarint())
	r.typ = pb.MessageType(d.byte())
	r.reject = d.byte() == 1
	r.term, r.logTerm, r.index, r.commit, r.hint = d.uvarint(), d.uvarint(), d.uvarint(), d.uvarint(), d.uvarint()
	if context := d.bytes(contextBytesMax); len(context) > 0 {
		r.m.Context = append([]byte(nil), context...)
	}
	n := d.uvarint()
	if d.err == nil && n > 0 && r.typ != pb.MsgApp {
		d.fail("a message of type %d has entries", r.typ)
	}
	r.m.Entries = d.entries(r.index+1, int(min(n, entriesMax+1)))
	err := d.finish()
	if err == nil {
		err = r.check(from)
	}
	if err != nil {
		return id, nil, &quarry.Error{Op: "raft message", Kind: quarry.Invalid, Err: err}
	}
	m := &r.m
	m.Type, m.To, m.From, m.Term = &r.typ, &r.to, &r.from, &r.term
	m.LogTerm, m.Index, m.Commit, m.RejectHint, m.Reject = &r.logTerm, &r.index, &r.commit, &r.hint, &r.reject
	r.bytes = len(b) + entryOverhead*(len(m.Entries)+1)
	return id, r, nil
}

// check refuses what no sound node sends and Raft would stumble over.
func (r *received) check(from quarry.NodeID) error {
	var d decoder
	switch {
	case !travels[r.typ]:
		d.fail("messages of type %d do not travel", r.typ)
	case r.term == 0:
		d.fail("a message of type %d has no term", r.typ)
	case len(r.m.Context) > 0 && len(r.m.Context) != 8 && (r.typ == pb.MsgHeartbeat || r.typ == pb.MsgHeartbeatResp):
		d.fail("the context of a heartbeat has %d bytes", len(r.m.Context))
	case r.logTerm > r.term && r.typ != pb.MsgAppResp:
		d.fail("the log at %d has term %d, later than the message's %d", r.index, r.logTerm, r.term)
	}
	if n := len(r.m.Entries); n > 0 && d.err == nil {
		if first, last := r.m.Entries[0].GetTerm(), r.m.Entries[n-1].GetTerm(); first < r.logTerm || last > r.term {
			d.fail("the entries behind %d have terms %d to %d in a message of term %d", r.index, first, last, r.term)
		}
	}
	if d.err != nil {
		return quarry.Errorf("", quarry.Invalid, "", "node %d: %w", from, d.err)
	}
	return nil
}
