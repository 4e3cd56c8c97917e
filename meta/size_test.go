package meta

import (
	"fmt"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
)

// stored is how many bytes a state has, keys and values, and how many keys.
func stored(kv *Memory) (bytes, keys int) {
	kv.Scan(nil, nil, func(key, value []byte) bool {
		bytes += len(key) + len(value)
		keys++
		return true
	})
	return bytes, keys
}

// TestStateBytes tells what things cost the state of a shard, before it is packed and compressed
// by the store, and holds each to a bound (go test ./meta -run StateBytes -v).
func TestStateBytes(t *testing.T) {
	const n = 2000
	s := newShard(t)
	s.quick = true
	s.ok(&ReserveHandles{Term: 1, Count: ReserveMax})
	dir := s.mkdir(quarry.RootInode, "d")
	cost := func(what string, most float64, times int, do func(i int)) {
		for range WindowOps { // what follows takes the places of these in the session
			s.do(&Make{Parent: quarry.RootInode, Name: "d", Kind: quarry.KindDir, Existing: true})
			s.log = nil
		}
		bytes, keys := stored(s.kv)
		for i := range times {
			s.log = nil
			do(i)
		}
		after, more := stored(s.kv)
		each := float64(after-bytes) / float64(times)
		t.Logf("%-58s %8.0f bytes, %.1f keys", what, each, float64(more-keys)/float64(times))
		if each > most {
			t.Errorf("%s costs %.0f bytes, at most %.0f are meant to", what, each, most)
		}
	}
	var files []quarry.Inode
	cost("a file without bytes, its name has 20", 100, n, func(i int) {
		files = append(files, s.touch(dir, fmt.Sprintf("file-%015d", i)))
	})
	cost("a directory, its name has 20", 120, n, func(i int) { s.mkdir(dir, fmt.Sprintf("dir--%015d", i)) })
	cost("the first chunk of a file, of 3 replicas, sealed", 260, n, func(i int) {
		s.seal(s.openTail(files[i], 1, 2, 3), quarry.ChunkBytesMax)
	})
	cost("a further chunk of a file", 260, n, func(int) { s.seal(s.openTail(files[0], 1, 2, 3), quarry.ChunkBytesMax) })
	cost("a small file, its 16,384 bytes in the layout", quarry.InlineBytesMax+120, n, func(i int) {
		s.ok(&Link{Parent: dir, Name: fmt.Sprintf("tiny-%015d", i), Pieces: []quarry.LinkPiece{{Length: quarry.InlineBytesMax, Inline: make([]byte, quarry.InlineBytesMax)}}})
	})
	cost("a session that has changed nothing", 64, n, func(int) { s.ok(&OpenSession{Slot: 9}) })
	cost("a session whose window is full of results", 64*WindowOps, 20, func(i int) {
		own := s.ok(&OpenSession{Slot: 9}).Session
		for k := range quarry.Sequence(WindowOps) {
			s.send(s.encode(quarry.Op{Session: own, Sequence: k + 1, Oldest: k + 1}, &Make{Parent: quarry.RootInode, Name: "d", Kind: quarry.KindDir, Existing: true}))
			s.log = nil
		}
	})
}

// TestManyPieces reads a layout that does not fit in one page, and tells how long a piece
// takes (-v).
func TestManyPieces(t *testing.T) {
	const pieces = quarry.PiecesMax + 1000
	s := newShard(t)
	s.quick = true
	s.ok(&ReserveHandles{Term: 1, Count: ReserveMax})
	file := s.touch(quarry.RootInode, "f")
	for range pieces {
		s.log = nil
		s.seal(s.openTail(file, 1, 2, 3), quarry.ChunkBytesMax)
	}
	began := time.Now()
	seen, pages := 0, 0
	for offset := int64(0); ; pages++ {
		page, err := Locate(s.kv, &quarry.LocateRequest{File: file, Offset: offset, Max: quarry.PiecesMax})
		if err != nil {
			t.Fatal(err)
		}
		seen += len(page.Pieces)
		last := page.Pieces[len(page.Pieces)-1]
		if offset = last.Offset + last.Length; !page.More {
			break
		}
	}
	took := time.Since(began)
	t.Logf("%d pieces in %d pages: %v, %v a piece", seen, pages+1, took, took/time.Duration(seen))
	if seen != pieces {
		t.Errorf("%d pieces were told, the file has %d", seen, pieces)
	}
}
