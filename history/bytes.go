package history

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"

	"github.com/quarryfs/quarry/crc32c"
)

// A record of a log, and the bytes of a file, tell by themselves what they are:
//
//	 0  magic "QHR1" (record) or "QHF1" (file)
//	 4  CRC32C of all that follows
//	 8  length of the whole, this header included
//	12  record: hash of the log's path      file: 0
//	16  record: worker (4), sequence (4)    file: value (8)
//	24  bytes that follow from the above
//
// All numbers are little endian.
const (
	recordMagic = "QHR1"
	fileMagic   = "QHF1"
	// HeaderBytes is the length of the shortest record and of the shortest file.
	HeaderBytes = 24
)

// maxRecordBytes is the longest record that a workload appends.
const maxRecordBytes = 1 << 20

func logHash(log string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(log))
	return h.Sum32()
}

// fill writes a header and what follows from it into b.
func fill(b []byte, magic string, kind uint32, id uint64) {
	copy(b, magic)
	binary.LittleEndian.PutUint32(b[8:], uint32(len(b)))
	binary.LittleEndian.PutUint32(b[12:], kind)
	binary.LittleEndian.PutUint64(b[16:], id)
	state := id ^ uint64(kind)<<32 ^ uint64(len(b))
	var word [8]byte
	for body := b[HeaderBytes:]; len(body) > 0; {
		// splitmix64: a few instructions for each word, and no two bodies alike.
		state += 0x9e3779b97f4a7c15
		z := (state ^ state>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		binary.LittleEndian.PutUint64(word[:], z^z>>31)
		body = body[copy(body, word[:]):]
	}
	binary.LittleEndian.PutUint32(b[4:], crc32c.Checksum(b[8:]))
}

// RecordBytes returns the record of a worker with a sequence for a log; length is HeaderBytes
// to 1 MiB.
func RecordBytes(log string, r Record) []byte {
	b := make([]byte, r.Length)
	fill(b, recordMagic, logHash(log), uint64(uint32(r.Worker))|uint64(r.Sequence)<<32)
	return b
}

// FileBytes returns the bytes of a file that has a value; length is at least HeaderBytes.
func FileBytes(value uint64, length int) []byte {
	b := make([]byte, length)
	fill(b, fileMagic, 0, value)
	return b
}

// parseFile returns the value that all of b is the bytes of, or what is wrong with them. An
// empty file has the value 0.
func parseFile(b []byte) (value uint64, bad string) {
	switch {
	case len(b) == 0:
		return 0, ""
	case len(b) < HeaderBytes || string(b[:4]) != fileMagic:
		return 0, fmt.Sprintf("%d bytes that no put has written", len(b))
	}
	value = binary.LittleEndian.Uint64(b[16:])
	if n := binary.LittleEndian.Uint32(b[8:]); int64(n) != int64(len(b)) {
		return value, fmt.Sprintf("%d bytes where value %d has %d", len(b), value, n)
	}
	if crc32c.Checksum(b[8:]) != binary.LittleEndian.Uint32(b[4:]) {
		return value, fmt.Sprintf("bytes that do not match the checksum of value %d", value)
	}
	return value, ""
}

// parseRecord looks at a record that begins with b. It returns the record; whole is false if
// b ends before it does; bad tells what is wrong.
func parseRecord(hash uint32, b []byte) (r Record, whole bool, bad string) {
	if n := min(len(b), 4); string(b[:n]) != recordMagic[:n] {
		return r, false, "no record begins here"
	}
	if len(b) < HeaderBytes {
		return r, false, ""
	}
	r.Length = binary.LittleEndian.Uint32(b[8:])
	id := binary.LittleEndian.Uint64(b[16:])
	r.Worker, r.Sequence = int32(uint32(id)), uint32(id>>32)
	switch {
	case r.Length < HeaderBytes || r.Length > maxRecordBytes || r.Worker < 0:
		return r, false, fmt.Sprintf("a record of %d bytes", r.Length)
	case binary.LittleEndian.Uint32(b[12:]) != hash:
		return r, false, fmt.Sprintf("record %d of worker %d, which belongs to another log", r.Sequence, r.Worker)
	case int(r.Length) > len(b):
		return r, false, ""
	case crc32c.Checksum(b[8:r.Length]) != binary.LittleEndian.Uint32(b[4:]):
		return r, false, fmt.Sprintf("record %d of worker %d does not match its checksum", r.Sequence, r.Worker)
	}
	return r, true, ""
}

// parseLog finds the records in bytes of a log. aligned says that b begins with a record; if
// it does not, the first one is looked for. cut is where in b the record begins that b ends
// before; len(b) if there is none.
func parseLog(log string, b []byte, offset int64, aligned bool) (s *Seen, cut int, bad string) {
	hash := logHash(log)
	at := 0
	if !aligned {
		at = findRecord(hash, b)
	}
	s = &Seen{First: offset + int64(at)}
	if at > 0 {
		s.HeadCRC = crc32c.Checksum(b[:at])
	}
	for at < len(b) {
		r, whole, problem := parseRecord(hash, b[at:])
		if problem != "" {
			return s, at, fmt.Sprintf("at %d: %s", offset+int64(at), problem)
		}
		if !whole {
			s.TailCRC = crc32c.Checksum(b[at:])
			return s, at, ""
		}
		s.Records = append(s.Records, r)
		at += int(r.Length)
	}
	return s, len(b), ""
}

// findRecord returns where in b the first record begins; len(b) if none does.
func findRecord(hash uint32, b []byte) int {
	for at := range b {
		if at > maxRecordBytes {
			break // the bytes before a record that a read has cut are fewer
		}
		if len(b)-at >= HeaderBytes && string(b[at:at+4]) == recordMagic {
			if _, _, bad := parseRecord(hash, b[at:]); bad == "" {
				return at
			}
		}
	}
	return len(b)
}
