package chunk

import (
	"container/list"
	"sync"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

const (
	indexMagic   = "QUARRYIX"
	indexVersion = 1
	// indexBytesMax is more than an index with RunsMax runs, of the largest numbers, has.
	indexBytesMax = 16 << 20
)

// Index is the content of a sealed chunk's index file: all that must be known to use the
// file of the chunk's bytes without anything else. The file is a frame with magic
// "QUARRYIX"; its content is, in the encoding of package wire,
//
//	1 handle             7 length
//	2 file               8 CRC32C of all bytes
//	3 position           9 mutable
//	4 path hint         10 CRC32C of each block
//	5 seal version      11 session, first sequence, count and length of each run of records
//	6 writable version  12 sessions whose records had been forgotten when it was written
type Index struct {
	Handle          quarry.Handle
	File            quarry.Inode // 0 if the chunk was made for a session
	Position        int64        // of the chunk's first byte in the file
	Hint            string       // the file's path when the chunk was made
	SealVersion     quarry.Version
	WritableVersion quarry.Version
	Length          int64
	CRC             uint32   // of all bytes
	CRCs            []uint32 // of each block
	Mutable         bool
	Runs            []quarry.RecordRun
	Forgotten       []quarry.SessionID
}

// indexBody is an Index with its runs as integers.
type indexBody struct {
	Index
	packed []uint64
}

func indexFields(w *wire.Walk, x *indexBody) {
	wire.Uint(w, 1, &x.Handle)
	wire.Uint(w, 2, &x.File)
	wire.Uint(w, 3, &x.Position)
	wire.String(w, 4, &x.Hint, HintBytesMax)
	wire.Uint(w, 5, &x.SealVersion)
	wire.Uint(w, 6, &x.WritableVersion)
	wire.Uint(w, 7, &x.Length)
	wire.Uint(w, 8, &x.CRC)
	wire.Bool(w, 9, &x.Mutable)
	wire.Uints(w, 10, &x.CRCs, quarry.ChunkBytesMax/quarry.BlockBytes)
	wire.Uints(w, 11, &x.packed, packedRun*RunsMax)
	wire.Uints(w, 12, &x.Forgotten, ForgottenMax)
}

// encode returns the content of the index file and its checksum.
func (x *Index) encode() ([]byte, uint32) {
	body := wire.Marshal(nil, &indexBody{*x, packRuns(x.Runs)}, indexFields)
	return appendFrame(nil, indexMagic, indexVersion, body), checksum(body)
}

// ReadIndex reads the content of an index file. Errors are Corrupt, and Unsupported for one
// that a later release wrote.
func ReadIndex(b []byte) (*Index, error) {
	x, _, err := readIndex(b)
	return x, err
}

// readIndex is ReadIndex that also returns the checksum of the content.
func readIndex(b []byte) (*Index, uint32, error) {
	content, err := openFrame(b, indexMagic, indexVersion)
	if err != nil {
		return nil, 0, err
	}
	var x indexBody
	if err := wire.Unmarshal(content, &x, indexFields); err != nil {
		return nil, 0, corrupt("the index cannot be read: %v", err)
	}
	state := State{
		Status: quarry.ReplicaGood, Promised: x.SealVersion, SealVersion: x.SealVersion, LogVersion: x.WritableVersion,
		Length: x.Length, SealLength: x.Length, flushed: x.Length, Position: x.Position,
	}
	switch why := state.flaw(); {
	case why != "" || !state.Sealed() || x.Handle == 0:
		return nil, 0, corrupt("the index is not that of a sealed chunk %s", why)
	case int64(len(x.CRCs)) != quarry.Blocks(x.Length):
		return nil, 0, corrupt("the index has %d checksums for %d bytes", len(x.CRCs), x.Length)
	case x.CRC != (&sums{x.Length, x.CRCs}).whole():
		return nil, 0, corrupt("the checksum of the index is not that of its blocks")
	}
	if x.Runs, err = unpackRuns(x.packed, 0, x.Length); err != nil {
		return nil, 0, err
	}
	return &x.Index, checksum(content), nil
}

// bytes is roughly what an index takes in memory.
func (x *Index) bytes() int64 {
	return int64(512 + len(x.Hint) + 4*len(x.CRCs) + 40*len(x.Runs) + 8*len(x.Forgotten))
}

// index returns the index of a sealed replica, which is as its state says.
func (s *Store) index(state *State) (*Index, error) {
	if x := s.indexes.get(state.Handle, state.index); x != nil {
		return x, nil
	}
	x, err := s.loadIndex(state)
	if err != nil {
		return nil, err
	}
	s.indexes.put(x, state.index)
	return x, nil
}

// loadIndex reads an index from the disk. It must be the very one that the journal has the
// checksum of: an index of another seal has other records.
func (s *Store) loadIndex(state *State) (*Index, error) {
	name := chunkName(state.Handle) + indexSuffix
	b, err := readFile(s.fs, name, indexBytesMax)
	if err != nil {
		return nil, quarry.Errorf("index", quarry.Corrupt, state.Handle.String(), "the index %s cannot be read: %v", name, err)
	}
	x, sum, err := readIndex(b)
	if err != nil {
		return nil, quarry.Wrap("index", name, err)
	}
	if sum != state.index || x.Handle != state.Handle || x.Length != state.Length {
		return nil, quarry.Errorf("index", quarry.Corrupt, state.Handle.String(), "the index %s is of another chunk or another seal", name)
	}
	return x, nil
}

// writeIndex makes an index durable beside its chunk and returns its checksum.
func (s *Store) writeIndex(x *Index) (uint32, error) {
	content, sum := x.encode()
	name := chunkName(x.Handle) + indexSuffix
	if err := writeFile(s.fs, name, content); err != nil {
		return 0, s.failure("write index", name, err)
	}
	s.indexes.put(x, sum)
	return sum, nil
}

// indexCache keeps the indexes used last, up to a number of bytes. Safe for use by many
// goroutines.
type indexCache struct {
	max int64

	mu      sync.Mutex
	bytes   int64
	entries map[indexKey]*list.Element
	order   list.List // of *cachedIndex, the one used last in front
}

// indexKey names one content: that of a handle may be replaced by a copy.
type indexKey struct {
	handle quarry.Handle
	sum    uint32
}

type cachedIndex struct {
	key   indexKey
	index *Index
}

func newIndexCache(max int64) *indexCache {
	return &indexCache{max: max, entries: map[indexKey]*list.Element{}}
}

func (c *indexCache) get(h quarry.Handle, sum uint32) *Index {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[indexKey{h, sum}]
	if !ok {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*cachedIndex).index
}

func (c *indexCache) put(x *Index, sum uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := indexKey{x.Handle, sum}
	if _, ok := c.entries[key]; ok {
		return
	}
	c.entries[key] = c.order.PushFront(&cachedIndex{key, x})
	c.bytes += x.bytes()
	for c.bytes > c.max && c.order.Len() > 1 {
		oldest := c.order.Remove(c.order.Back()).(*cachedIndex)
		delete(c.entries, oldest.key)
		c.bytes -= oldest.index.bytes()
	}
}

// Records returns the durable records of a replica in the order of their offsets, and the
// sessions that it has forgotten; their records belong to session 0. The caller may keep
// both and changes neither.
func (s *Store) Records(h quarry.Handle) ([]quarry.RecordRun, []quarry.SessionID, error) {
	s.mu.Lock()
	if s.failed != nil {
		defer s.mu.Unlock()
		return nil, nil, s.failed
	}
	r := s.replica(h)
	state := r.state
	var runs []quarry.RecordRun
	if r.growth != nil {
		runs = cutRuns(r.growth.runs, 0, state.Length)
	}
	s.mu.Unlock()
	if err := state.usable("records"); err != nil {
		return nil, nil, err
	}
	if state.Sealed() {
		x, err := s.index(&state)
		if err != nil {
			return nil, nil, err
		}
		runs = x.Runs
	}
	return mask(runs, state.Forgotten), state.Forgotten, nil
}

// mask returns the runs without the sessions that are forgotten.
func mask(runs []quarry.RecordRun, forgotten []quarry.SessionID) []quarry.RecordRun {
	if len(forgotten) == 0 {
		return runs
	}
	gone := make(map[quarry.SessionID]bool, len(forgotten))
	for _, id := range forgotten {
		gone[id] = true
	}
	out := append([]quarry.RecordRun(nil), runs...)
	for i := range out {
		if gone[out[i].Session] {
			out[i].Session = 0
		}
	}
	return out
}
