package meta

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// state reads records from a view. What belongs to a slot that the shard does not own may be
// there, because slots move (see [BeginTake] and [Release]); for whoever reads it is not. Keys are built in key, so it is
// not safe for concurrent use.
type state struct {
	view   View
	key    []byte
	header *header
}

// reading returns a state to answer reads from.
func reading(v View) *state {
	s := &state{view: v}
	h := s.loadHeader()
	s.header = &h
	return s
}

// load reads the record at a key into m and reports whether it is there. A record that
// cannot be read breaks an invariant: it stops the process.
func load[M any](s *state, key []byte, m *M, fields func(*wire.Walk, *M)) bool {
	s.key = key
	value, ok := s.view.Get(key)
	if !ok {
		return false
	}
	decode(key, value, m, fields)
	return true
}

func decode[M any](key, value []byte, m *M, fields func(*wire.Walk, *M)) {
	if err := wire.Unmarshal(value, m, fields); err != nil {
		panic(fmt.Sprintf("meta: the state is broken: key %x, value %x: %v", key, value, err))
	}
}

// scan calls fn with the keys that begin with the prefix, from the key from on (nil: all).
func (s *state) scan(prefix, from []byte, fn func(key, value []byte) bool) {
	if from == nil {
		from = prefix
	}
	s.view.Scan(from, after(prefix), fn)
}

// index calls fn with the entries from lo to hi of an index of the shard, until it returns false.
// Every reader of an index comes here: entries of slots that the shard does not own are passed
// over. A row of such entries is left behind in one step.
func (s *state) index(lo, hi []byte, fn func(key, value []byte) bool) {
	for lo != nil {
		next := []byte(nil)
		foreign := 0
		s.view.Scan(lo, hi, func(key, value []byte) bool {
			slot := indexSlot(key)
			if s.header.owns(slot) {
				foreign = 0
				return fn(key, value)
			}
			if foreign++; foreign < foreignMax || key[2] == tableHeld {
				return true
			}
			next = s.header.nextOwned(key, slot)
			return false
		})
		if lo = next; hi != nil && bytes.Compare(lo, hi) >= 0 {
			return
		}
	}
}

// foreignMax is how many entries of slots that are not owned are passed over one by one: to look
// for the next one that is owned costs as much.
const foreignMax = 16

// indexSlot returns the slot of what an entry of an index is about.
func indexSlot(key []byte) quarry.Slot {
	if key[2] == tableHeld {
		return quarry.Inode(binary.BigEndian.Uint64(key[11:])).Slot()
	}
	return quarry.Inode(lastNumber(key)).Slot()
}

// nextOwned returns the first key behind one of an index, whose slot is not owned, that may be of
// a slot which is: in the same row, or where the next row begins.
func (h *header) nextOwned(key []byte, slot quarry.Slot) []byte {
	row := append([]byte(nil), key[:len(key)-8]...)
	for _, r := range h.Slots {
		if r.First > slot {
			return binary.BigEndian.AppendUint64(row, uint64(quarry.MakeInode(r.First, 0)))
		}
	}
	return after(row)
}

func (s *state) loadHeader() (h header) {
	load(s, headerKey(s.key[:0]), &h, headerFields)
	return h
}

func (s *state) entry(dir quarry.Inode, name string) (e entryRecord, ok bool) {
	ok = load(s, entryKey(s.key[:0], dir, name), &e, entryFields)
	return e, ok
}

// inode returns the record of an inode; nil if there is none, or if it was removed.
func (s *state) inode(id quarry.Inode) *inodeRecord {
	if i := s.anyInode(id); i != nil && i.Links > 0 {
		return i
	}
	return nil
}

// anyInode returns the record of an inode, which may be that of a removed file, or nil.
func (s *state) anyInode(id quarry.Inode) *inodeRecord {
	i := new(inodeRecord)
	if !s.header.owns(id.Slot()) || !load(s, inodeKey(s.key[:0], id), i, inodeFields) {
		return nil
	}
	return i
}

// namedInode returns the record of an inode that an entry leads to.
func (s *state) namedInode(id quarry.Inode) *inodeRecord {
	i := s.inode(id)
	if i == nil {
		panic(fmt.Sprintf("meta: the state is broken: an entry leads to inode %v, which has no record", id))
	}
	return i
}

// dir returns a directory's record.
func (s *state) dir(id quarry.Inode) (*inodeRecord, error) {
	switch i := s.inode(id); {
	case i == nil && !s.header.owns(id.Slot()):
		return nil, wrongShard(id.Slot())
	case i == nil:
		return nil, refuse(quarry.NotFound, "", "there is no directory %v", id)
	case i.Kind != quarry.KindDir:
		return nil, refuse(quarry.NotDir, "", "%v is a file", id)
	default:
		return i, nil
	}
}

// file returns a file's record.
func (s *state) file(id quarry.Inode) (*inodeRecord, error) {
	switch i := s.inode(id); {
	case i == nil && !s.header.owns(id.Slot()):
		return nil, wrongShard(id.Slot())
	case i == nil:
		return nil, refuse(quarry.NotFound, "", "there is no file %v", id)
	case i.Kind != quarry.KindFile:
		return nil, refuse(quarry.IsDir, "", "%v is a directory", id)
	default:
		return i, nil
	}
}

func (s *state) piece(id quarry.Inode, end uint64) (p pieceRecord, ok bool) {
	ok = load(s, pieceKey(s.key[:0], id, end), &p, pieceFields)
	return p, ok
}

// lastPiece returns the file's last piece and its end; false if it has none.
func (s *state) lastPiece(id quarry.Inode, i *inodeRecord) (p pieceRecord, end uint64, ok bool) {
	switch {
	case i.Open:
		end = openEnd
	case i.Length > 0:
		end = uint64(i.Length)
	default:
		return p, 0, false
	}
	if p, ok = s.piece(id, end); !ok {
		panic(fmt.Sprintf("meta: the state is broken: file %v has no piece that ends at %d", id, end))
	}
	return p, end, true
}

// chunk returns a chunk's record, or nil.
func (s *state) chunk(h quarry.Handle) *ChunkRecord {
	c := new(ChunkRecord)
	if !s.header.owns(h.Slot()) || !load(s, chunkKey(s.key[:0], h), c, chunkFields) {
		return nil
	}
	return c
}

// piecedChunk returns the record of a chunk that a piece names.
func (s *state) piecedChunk(h quarry.Handle) *ChunkRecord {
	c := s.chunk(h)
	if c == nil {
		panic(fmt.Sprintf("meta: the state is broken: a piece names chunk %v, which has no record", h))
	}
	return c
}

func (s *state) session(id quarry.SessionID) (r SessionRecord, ok bool) {
	ok = s.header.owns(SessionSlot(id)) && load(s, sessionKey(s.key[:0], id), &r, sessionFields)
	return r, ok
}

// liveSession returns a session that takes operations, or SessionExpired, or WrongShard.
func (s *state) liveSession(id quarry.SessionID) (SessionRecord, error) {
	r, ok := s.session(id)
	if slot := SessionSlot(id); !s.header.owns(slot) {
		return r, wrongShard(slot)
	}
	if (!ok || r.Closed) && !off(ClosedSessionActs) {
		return r, refuse(quarry.SessionExpired, fmt.Sprintf("session %x", uint64(id)), "it is not known (any more)")
	}
	return r, nil
}

func (t *tx) putEntry(dir quarry.Inode, name string, e entryRecord) {
	put(t, entryKey(t.key[:0], dir, name), &e, entryFields)
}

func (t *tx) putInode(id quarry.Inode, i *inodeRecord) {
	put(t, inodeKey(t.key[:0], id), i, inodeFields)
}

func (t *tx) putPiece(id quarry.Inode, end uint64, p *pieceRecord) {
	put(t, pieceKey(t.key[:0], id, end), p, pieceFields)
}

// nextInode takes an inode number that was never used.
func (t *tx) nextInode(s quarry.Slot) (quarry.Inode, error) {
	id, err := t.spareInode(s)
	if err == nil {
		t.header.NextInode++
	}
	return id, err
}

// spareInode returns the inode number that the next inode gets, and does not take it yet.
func (t *tx) spareInode(s quarry.Slot) (quarry.Inode, error) {
	n := t.header.NextInode
	if n == 0 || n > quarry.NumberMax {
		return 0, refuse(quarry.NoSpace, "", "all inode numbers are used")
	}
	return quarry.MakeInode(s, n), nil
}
