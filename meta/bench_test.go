package meta

import (
	"fmt"
	"testing"

	"github.com/quarryfs/quarry"
)

// BenchmarkCreate is the work of one replica for one file made: decode, apply, encode. The
// state is in memory, and its keys in the order of names.
func BenchmarkCreate(b *testing.B) {
	s := benchShard()
	commands := make([][]byte, b.N)
	for i := range commands {
		c := Command{Time: LogTime(i), WallNS: 1e18 + int64(i), Body: &Make{
			Parent: quarry.RootInode, Name: fmt.Sprintf("file-%09d", i), Kind: quarry.KindFile, Mode: 0o644,
		}}
		c.Op = quarry.Op{Session: s.session, Sequence: quarry.Sequence(i + 1), Oldest: quarry.Sequence(max(i-16, 1))}
		commands[i], _ = c.Append(nil)
	}
	counted := &countingKV{KV: s.kv}
	b.ReportAllocs()
	b.ResetTimer()
	for _, command := range commands {
		s.m.Apply(counted, command)
	}
	b.ReportMetric(float64(counted.gets)/float64(b.N), "gets/op")
	b.ReportMetric(float64(counted.sets)/float64(b.N), "sets/op")
	b.ReportMetric(float64(counted.bytes)/float64(b.N), "written-B/op")
	if n := Totals(s.kv).Files; n != int64(b.N) {
		b.Fatalf("%d files were made", n)
	}
}

// BenchmarkChunkLife is the work for one chunk: open, begin to seal, seal, confirm.
func BenchmarkChunkLife(b *testing.B) {
	s := benchShard()
	s.t = b
	s.quick = true
	s.ok(&ReserveHandles{Term: 1, Count: ReserveMax})
	file := s.touch(quarry.RootInode, "f")
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		s.log = nil
		s.seal(s.openTail(file, 1, 2, 3), quarry.ChunkBytesMax)
	}
}

// BenchmarkLookup walks four levels.
func BenchmarkLookup(b *testing.B) {
	s := benchShard()
	s.t = b
	dir := quarry.RootInode
	for range 3 {
		dir = s.mkdir(dir, "directory")
	}
	s.touch(dir, "file")
	req := &quarry.LookupRequest{From: quarry.RootInode, Path: "directory/directory/directory/file"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Lookup(s.kv, req, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func benchShard() *shard {
	s := &shard{t: &testing.T{}, kv: NewMemory(), time: 1, quick: true}
	s.ok(&Init{Slots: []quarry.SlotRange{{First: 0, Last: quarry.Slots - 1}}})
	s.session = s.ok(&OpenSession{}).Session
	s.handle = s.ok(&ReserveHandles{Term: 1, Count: 1}).Range.First
	return s
}

// countingKV counts what a state is asked.
type countingKV struct {
	KV
	gets, sets, bytes int
}

func (c *countingKV) Get(key []byte) ([]byte, bool) {
	c.gets++
	return c.KV.Get(key)
}

func (c *countingKV) Set(key, value []byte) {
	c.sets++
	c.bytes += len(key) + len(value)
	c.KV.Set(key, value)
}
