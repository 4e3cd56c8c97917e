package raft

import (
	"encoding/binary"
	"fmt"

	pb "go.etcd.io/raft/v3/raftpb"
)

const (
	// CommandBytesMax is the largest command.
	CommandBytesMax = 4 << 20
	// entriesMax is the most entries of one message or record; the smallest entry that
	// Raft's own size limit counts has 8 bytes.
	entriesMax = messageBytesMax / 8
	// entryOverhead is what an entry takes in memory beside its data, for the accounting.
	entryOverhead = 160
)

// A decoder takes fields from the front of bytes that came from a disk or a network. After
// the first failure it returns zeros.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
	}
	d.b = nil
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail("a number is cut short or malformed")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail("the bytes end too early")
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

// bytes takes a length of at most limit and as many bytes, which alias the input.
func (d *decoder) bytes(limit int) []byte {
	n := d.uvarint()
	if n > uint64(limit) || n > uint64(len(d.b)) {
		d.fail("a length is %d; %d are allowed and %d bytes are left", n, limit, len(d.b))
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

// finish returns the first failure, and one if bytes are left.
func (d *decoder) finish() error {
	if d.err == nil && len(d.b) > 0 {
		d.fail("%d bytes are left over", len(d.b))
	}
	return d.err
}

// Entries stand in the log and in messages in the same form. Their indexes follow each
// other; the index of the first and the number of entries stand before them.
//
//	uvarint  term
//	byte     type: 0 a command or empty, 2 a change of the members (Raft's EntryType)
//	uvarint  length of the data
//	.        data
func appendEntry(b []byte, e *pb.Entry) []byte {
	b = binary.AppendUvarint(b, e.GetTerm())
	b = append(b, byte(e.GetType()))
	b = binary.AppendUvarint(b, uint64(len(e.Data)))
	return append(b, e.Data...)
}

// entryBytes is an upper bound of what appendEntry appends.
func entryBytes(e *pb.Entry) int {
	return len(e.Data) + 2*binary.MaxVarintLen64 + 1
}

// slot is an entry with the values its pointers lead to.
type slot struct {
	entry       pb.Entry
	term, index uint64
}

var normalEntry, changeEntry = pb.EntryNormal, pb.EntryConfChangeV2

// entries takes n entries that begin at index first. The data is copied, once for all.
func (d *decoder) entries(first uint64, n int) []*pb.Entry {
	if d.err != nil || n == 0 {
		return nil
	}
	if n > entriesMax || n > len(d.b)/3 { // an entry has 3 bytes or more
		d.fail("%d entries are announced in %d bytes", n, len(d.b))
		return nil
	}
	if first == 0 || first+uint64(n) < first {
		d.fail("the entries begin at index %d", first)
		return nil
	}
	own := decoder{b: append([]byte(nil), d.b...)}
	slots, list := make([]slot, n), make([]*pb.Entry, n)
	before := uint64(0)
	for i := range slots {
		s := &slots[i]
		s.term, s.index = own.uvarint(), first+uint64(i)
		typ := own.byte()
		data := own.bytes(CommandBytesMax)
		if own.err != nil {
			break
		}
		switch pb.EntryType(typ) {
		case pb.EntryNormal:
			s.entry.Type = &normalEntry
		case pb.EntryConfChangeV2:
			s.entry.Type = &changeEntry
		default:
			own.fail("entry %d is of type %d, which this release does not know", s.index, typ)
		}
		if s.term == 0 || s.term < before {
			own.fail("entry %d has term %d after term %d", s.index, s.term, before)
		}
		before = s.term
		s.entry.Term, s.entry.Index = &s.term, &s.index
		if len(data) > 0 {
			s.entry.Data = data[:len(data):len(data)]
		}
		list[i] = &s.entry
	}
	d.b, d.err = own.b, own.err
	return list
}
