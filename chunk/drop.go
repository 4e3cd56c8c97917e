package chunk

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
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
	unix  int64 // seconds
	bytes int64
	names []string
}

// trashKey returns the name under which a replica's bytes are in the trash.
func trashKey(h quarry.Handle, now time.Time) string {
	return fmt.Sprintf("%v.%d", h, now.Unix())
}

// parseTrash returns the key and the time of a name in the trash; false for other names.
func parseTrash(name string) (key string, unix int64, ok bool) {
	key = strings.TrimSuffix(name, indexSuffix)
	handle, seconds, _ := strings.Cut(key, ".")
	_, ok = parseHandle(handle)
	unix, err := strconv.ParseInt(seconds, 10, 64)
	return key, unix, ok && err == nil
}

// trashFiles moves the files of a chunk to the trash. They need not be durable there.
func (s *Store) trashFiles(h quarry.Handle, now time.Time) error {
	key := trashKey(h, now)
	for _, suffix := range []string{"", indexSuffix} {
		name, to := chunkName(h)+suffix, path.Join(trashName, key+suffix)
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
		s.noteTrash(key+suffix, size)
	}
	return nil
}

// noteTrash counts a file that is in the trash; false if its name is not that of one.
func (s *Store) noteTrash(name string, size int64) bool {
	key, unix, ok := parseTrash(name)
	if !ok {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.trash[key]
	t.unix = unix
	if !slices.Contains(t.names, name) {
		t.names = append(slices.Clip(t.names), name)
		t.bytes += size
	}
	s.trash[key] = t
	return true
}

// Purge removes from the trash what was dropped before a time of day, the oldest first, at
// most limit replicas. It returns how many went, and their bytes.
func (s *Store) Purge(before time.Time, limit int) (replicas int, bytes int64, err error) {
	s.mu.Lock()
	if err := s.usable(); err != nil {
		s.mu.Unlock()
		return 0, 0, err
	}
	var old []string
	for key, t := range s.trash {
		if t.unix < before.Unix() {
			old = append(old, key)
		}
	}
	slices.SortFunc(old, func(a, b string) int {
		return cmp.Or(cmp.Compare(s.trash[a].unix, s.trash[b].unix), cmp.Compare(a, b))
	})
	old = old[:min(len(old), max(limit, 0))]
	s.mu.Unlock()
	for _, key := range old {
		s.mu.Lock()
		t := s.trash[key]
		delete(s.trash, key)
		s.mu.Unlock()
		for _, name := range t.names {
			err := s.fs.Remove(path.Join(trashName, name))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return replicas, bytes, disk.Wrap("purge", name, err)
			}
		}
		replicas, bytes = replicas+1, bytes+t.bytes
	}
	return replicas, bytes, nil
}
