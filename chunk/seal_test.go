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

// TestWhatIsAskedBehindAnEnd: what is asked of a replica while a seal that cuts it, or a drop, waits for its turn
// is worked off, too, though bytes that were there when it was asked for have gone.
func TestWhatIsAskedBehindAnEnd(t *testing.T) {
	type ask = func(s *Store, done func(error))
	sealed := func(s *Store, done func(error)) { s.Seal(sealRequest(1, 1000), done) }
	dropped := func(s *Store, done func(error)) { s.Drop(1, 9, testNow, done) }
	synced := func(s *Store, done func(error)) { s.Sync(1, done) }
	later := func(s *Store, done func(error)) { s.SyncLater(1, done) }
	for _, asks := range [][]ask{{sealed, sealed}, {sealed, synced}, {sealed, later}, {sealed, dropped}, {dropped, synced}, {dropped, sealed}, {dropped, dropped}} {
		disks(t, func(t *testing.T, fsys disk.FS) {
			s := open(t, fsys, testOptions())
			create(t, s, 1)
			write(t, s, 1, 0, 1, pattern(1, 1000))
			write(t, s, 1, 1000, 2, pattern(2, 500))
			answers := make(chan error, len(asks))
			s.Sync(1, func(error) { // the replica is busy until this returns
				for _, ask := range asks {
					ask(s, func(err error) { answers <- err })
				}
			})
			for range asks {
				if err := <-answers; err != nil && quarry.KindOf(err) != quarry.NotFound {
					t.Error(err)
				}
			}
		})
	}
}
