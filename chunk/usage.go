package chunk

import (
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// Usage is how full a disk is, in bytes.
type Usage struct {
	Total    int64 // of the file system
	Free     int64 // for new chunks: without the reserve, and without what growing chunks may still take
	Reserved int64 // what growing chunks and copies under way may still take
	Trash    int64 // in the trash
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
	u := Usage{
		Total: s.space.total, Free: max(0, s.space.free-s.opts.ReserveBytes-s.reserved),
		Reserved: s.reserved, Unsynced: s.unsynced, Chunks: int64(s.replicas.Len()),
	}
	for _, t := range s.trash {
		u.Trash += t.bytes
	}
	return u, nil
}

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

// Retire gives the disk up, as if it had failed, because it does not answer. What waits for
// it goes on waiting; everything else is refused.
func (s *Store) Retire(why error) {
	s.mu.Lock()
	s.hung = s.hung || s.failed == nil
	s.mu.Unlock()
	s.fail(why)
}

// Hung reports whether the disk was retired because it does not answer.
func (s *Store) Hung() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hung
}

// reserve promises n bytes of the disk's space to somebody; NoSpace if they are not there.
func (s *Store) reserve(op string, h quarry.Handle, n int64) error {
	total, free, err := s.fs.Usage()
	if err != nil {
		return disk.Wrap(op, h.String(), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.space = space{total: total, free: free}
	if left := free - s.opts.ReserveBytes - s.reserved; left < n {
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
