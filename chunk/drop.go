package chunk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// Drop ends a replica and moves its files to the trash, where they stay until Purge; now is
// the time of day. It succeeds if there is no replica. StaleVersion, and the replica stays, if
// a version above v is promised.
//
// The record in the journal comes first: after a crash between the two the files belong to
// nobody, and Open moves them.
func (s *Store) Drop(h quarry.Handle, v quarry.Version, now time.Time, done func(error)) {
	s.ask(h, &op{
		done: done, ends: true,
		change: func(have *State) error {
			if have.Exists() && have.Promised > v {
				return quarry.Errorf("drop", quarry.StaleVersion, h.String(), "version %d is promised, the drop is for %d", have.Promised, v)
			}
			*have = State{Handle: h, Status: quarry.ReplicaMissing}
			return nil
		},
		finish: func() error {
			err := s.trashFiles(h, now)
			s.files.forget(h)
			return err
		},
	})
}

// trashed is one replica's files in the trash.
type trashed struct {
	name  string   // of its bytes; that of the index follows from it
	unix  int64    // when it was dropped, in seconds
	sizes [2]int64 // of the bytes and of the index
}

// trashedName returns the name under which a replica's bytes are in the trash.
func trashedName(h quarry.Handle, now time.Time) string {
	return fmt.Sprintf("%v.%d", h, max(now.Unix(), 0))
}

// parseTrash returns whose file a name in the trash is of, and whether it is the index; false for
// other names.
func parseTrash(name string) (t trashed, index int, ok bool) {
	t.name = strings.TrimSuffix(name, indexSuffix)
	if t.name != name {
		index = 1
	}
	handle, seconds, _ := strings.Cut(t.name, ".")
	_, ok = parseHandle(handle)
	unix, err := strconv.ParseUint(seconds, 10, 63)
	t.unix = int64(unix)
	return t, index, ok && err == nil
}

// order is the key of the replica among others: the first is the one that was dropped first.
func (t *trashed) order() string { return fmt.Sprintf("%020d %s", t.unix, t.name) }

// trashFiles moves the files of a chunk to the trash. They need not be durable there.
func (s *Store) trashFiles(h quarry.Handle, now time.Time) error {
	in := path.Join(trashName, trashedName(h, now))
	for _, suffix := range []string{"", indexSuffix} {
		name, to := chunkName(h)+suffix, in+suffix
		size, err := s.fs.Size(name)
		if err == nil {
			err = s.fs.Rename(name, to)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return s.failure("drop", name, err)
		}
		s.noteTrash(path.Base(to), size)
	}
	return nil
}

// noteTrash counts a file that is in the trash, if its name is that of one.
func (s *Store) noteTrash(name string, size int64) {
	of, index, ok := parseTrash(name)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t, there := s.trash.Get(of.order())
	if !there {
		t = of
	}
	s.trashBytes += size - t.sizes[index]
	t.sizes[index] = size
	s.trash.Set(t.order(), t)
}

// Purge removes from the trash what was dropped before a time of day, the oldest first, at
// most limit replicas. It returns how many went, and their bytes.
func (s *Store) Purge(before time.Time, limit int) (replicas int, bytes int64, err error) {
	for replicas < limit {
		n, gone, err := s.purgeOldest(before.Unix(), nil)
		if !gone || err != nil {
			return replicas, bytes, err
		}
		replicas, bytes = replicas+1, bytes+n
	}
	return replicas, bytes, nil
}

// MakeRoom asks the file system how full it is, and removes from the trash what was dropped first, no
// more than it takes, until n bytes are left for new chunks. It reports whether they are.
func (s *Store) MakeRoom(ctx context.Context, n int64) (made bool, err error) {
	for gone := true; gone && err == nil; {
		_, gone, err = s.purgeOldest(math.MaxInt64, func() (bool, error) {
			if err := ctx.Err(); err != nil {
				return false, err
			}
			if err := s.Measure(); err != nil {
				return false, err
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			made = s.left() >= n
			return made, nil
		})
	}
	return made, err
}

// purgeOldest removes from the trash the replica that was dropped first, if that was before a
// time, in seconds, and if there is not enough room without that; enough may be nil. It is asked when no other purge is under
// way, so that what that frees is not missed.
func (s *Store) purgeOldest(before int64, enough func() (bool, error)) (bytes int64, gone bool, err error) {
	s.purging.Lock()
	defer s.purging.Unlock()
	if enough != nil {
		if is, err := enough(); is || err != nil {
			return 0, false, err
		}
	}
	s.mu.Lock()
	err = s.usable()
	_, t, some := s.trash.Min()
	if err != nil || !some || t.unix >= before {
		s.mu.Unlock()
		return 0, false, err
	}
	s.trash.Delete(t.order())
	bytes = t.sizes[0] + t.sizes[1]
	s.trashBytes -= bytes
	s.writing++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.leave()
		s.mu.Unlock()
	}()
	for _, suffix := range []string{"", indexSuffix} {
		name := path.Join(trashName, t.name+suffix)
		if err := s.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, false, disk.Wrap("purge", name, err)
		}
	}
	return bytes, true, nil
}
