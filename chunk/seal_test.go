package chunk

import (
	"math"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// TestSealTellsThePosition: a chunk may be made before it is known where in its file it will stand.
// A seal tells that, for ever; one that does not leaves what was said before.
func TestSealTellsThePosition(t *testing.T) {
	disks(t, func(t *testing.T, fsys disk.FS) {
		s := open(t, fsys, testOptions())
		said := createRequest(1).Position
		for h, position := range map[quarry.Handle]int64{1: 0, 2: 12345} {
			create(t, s, h)
			write(t, s, h, 0, 1, pattern(1, 1000))
			syncChunk(t, s, h)
			req := sealRequest(h, 1000)
			for _, wrong := range []int64{-1, math.MaxInt64} {
				req.Position = wrong
				wantKind(t, wait(func(done func(error)) { s.Seal(req, done) }), quarry.Invalid)
			}
			req.Position = position
			must(t, func(done func(error)) { s.Seal(req, done) })
		}
		for range 2 { // in memory, and by the index
			for h, want := range map[quarry.Handle]int64{1: said, 2: 12345} {
				if got := state(t, s, h).Position; got != want {
					t.Errorf("chunk %v begins at %d, want %d", h, got, want)
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, fsys, testOptions())
		}
	})
}
