package chunk

import (
	"errors"
	"math"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// Usage is how full a disk is, in bytes.
type Usage struct {
	Total    int64 // of the file system
	Free     int64 // for new chunks: with the trash; without the reserve, and without what growing chunks may still take
	Reserved int64 // what growing chunks and copies under way may still take
	Trash    int64 // in the trash, which goes as soon as its space is wanted
	Unsynced int64 // written and not yet durable
	Chunks   int64 // replicas
}

// space is what the file system said last.
type space struct {
	total, free int64
	err         error
}

// Usage returns how full the disk is. It does not ask the disk, which may not answer, but
// counts on from when that was last done: see Measure.
func (s *Store) Usage() (Usage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.failed != nil:
		return Usage{}, s.failed
	case s.space.err != nil:
		return Usage{}, s.space.err
	}
	return Usage{
		Total: s.space.total, Free: max(0, s.left()+s.trashBytes),
		Reserved: s.reserved, Trash: s.trashBytes, Unsynced: s.unsynced, Chunks: int64(s.replicas.Len()),
	}, nil
}

// left returns how many bytes new chunks can have while the trash stays as it is; less than 0 if what was promised
// is not there. s.mu is held.
func (s *Store) left() int64 { return s.space.free - s.opts.ReserveBytes - s.reserved }

// Measure asks the file system how full it is.
func (s *Store) Measure() error {
	s.enter()
	total, free, err := s.fs.Usage()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leave()
	s.space = space{total, free, disk.Wrap("usage", "", err)}
	return s.space.err
}

// enter notes that a call begins to work with the disk, and leave, with mu held, that it has
// come back.
func (s *Store) enter() {
	s.mu.Lock()
	s.writing++
	s.mu.Unlock()
}

func (s *Store) leave() {
	s.ended++
	if s.writing--; s.writing == 0 {
		s.idle.Broadcast()
	}
}

// Progress tells how many changes and calls wait for the disk, and how many have come to an
// end since Open. A disk for which something waits and at which nothing ends hangs.
func (s *Store) Progress() (waiting int, ended int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked + s.writing, s.ended
}

// Retire gives the disk up, as if it had failed, because it does not answer; it may have failed
// before. What waits for it goes on waiting; everything else is refused.
func (s *Store) Retire(why error) {
	s.mu.Lock()
	s.hung = true
	s.mu.Unlock()
	s.fail(why)
	s.mu.Lock()
	s.idle.Broadcast() // Close does not wait for it
	s.mu.Unlock()
}

// Hung reports whether the disk was given up because it does not answer.
func (s *Store) Hung() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hung
}

// reserve promises n bytes of the disk's space to somebody. What was dropped goes for it, the oldest
// first; NoSpace if that is not enough.
func (s *Store) reserve(op string, h quarry.Handle, n int64) error {
	err := s.promise(op, h, n)
	if quarry.KindOf(err) != quarry.NoSpace {
		return err
	}
	for gone := true; gone; {
		var failed error
		_, gone, failed = s.purgeOldest(math.MaxInt64, func() (bool, error) {
			err = s.promise(op, h, n)
			return quarry.KindOf(err) != quarry.NoSpace, nil
		})
		err = errors.Join(err, failed)
	}
	return err
}

// promise is reserve with the trash as it is.
func (s *Store) promise(op string, h quarry.Handle, n int64) error {
	total, free, err := s.fs.Usage()
	if err != nil {
		return disk.Wrap(op, h.String(), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.space = space{total: total, free: free}
	if left := s.left(); left < n {
		return quarry.Errorf(op, quarry.NoSpace, h.String(), "the disk has %d bytes left for chunks, %d are needed", max(0, left), n)
	}
	s.reserved += n
	return nil
}

// unreserve gives back what reserve has promised.
func (s *Store) unreserve(n int64) {
	s.mu.Lock()
	s.reserved -= n
	s.mu.Unlock()
}

// filled notes that bytes that were promised are on the disk. s.mu is held.
func (s *Store) filled(n int64) {
	s.reserved -= n
	s.space.free -= n
}
