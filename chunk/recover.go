package chunk

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// recover compares what the journal says with the files, and makes good what a crash left
// half done.
//
//	what is found                               what it was               what is done
//	file shorter than what was synced of it     the disk lied             replica is lost
//	no file                                     the same                  replica is lost
//	bytes that only the journal has             never synced to the file  written again, and synced
//	                                                                      if of too many chunks
//	last block of a growing replica differs     the disk lied, or rot     replica is corrupt
//	file longer than a sealed replica           seal, before truncate     truncated
//	sealed, without an index                    somebody removed it       replica is corrupt
//	index of a growing replica                  seal, before its record,  removed
//	                                            or re-open, after it
//	file of no replica, empty                   create, before its record removed
//	file or index of no replica                 drop or copy, before or   moved to the trash
//	                                            after its record
//	name that ends in .tmp                      seal or copy, half done   removed
//
// A lost or corrupt replica stays so, whatever is found later: that is journaled before Open
// returns.
func (s *Store) recover() error {
	for _, dir := range []string{chunksName, trashName} {
		if err := s.fs.MkdirAll(dir); err != nil {
			return disk.Wrap("open disk", dir, err)
		}
	}
	if err := s.listTrash(); err != nil {
		return err
	}
	var byDir [256][]*replica
	s.replicas.Scan(func(h quarry.Handle, r *replica) bool {
		r.edition = s.newEdition()
		byDir[byte(h)] = append(byDir[byte(h)], r)
		return true
	})
	changed, err := s.recoverDirs(&byDir)
	if err != nil {
		return err
	}
	return s.journalChanged(changed)
}

// listTrash reads what the trash holds.
func (s *Store) listTrash() error {
	names, err := s.fs.List(trashName)
	if err != nil {
		return disk.Wrap("open disk", trashName, err)
	}
	for _, name := range names {
		size, err := s.fs.Size(path.Join(trashName, name))
		if err != nil {
			return disk.Wrap("open disk", name, err)
		}
		s.noteTrash(name, size)
	}
	return nil
}

// recoverDirs looks into the folders, several at a time: on a cold disk each look is a
// seek. It returns the replicas whose state has changed.
func (s *Store) recoverDirs(byDir *[256][]*replica) ([]*replica, error) {
	var (
		wait    sync.WaitGroup
		mu      sync.Mutex
		changed []*replica
		failed  error
		next    int
	)
	for range s.opts.Workers {
		wait.Go(func() {
			for {
				mu.Lock()
				dir := next
				next++
				stop := dir >= len(byDir) || failed != nil
				mu.Unlock()
				if stop {
					return
				}
				c, err := s.recoverDir(fmt.Sprintf("%s/%02x", chunksName, dir), byte(dir), byDir[dir])
				mu.Lock()
				changed = append(changed, c...)
				failed = errors.Join(failed, err)
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	return changed, failed
}

// found is which files of a chunk there are.
type found struct{ bytes, index bool }

// recoverDir compares the replicas of one folder with its files.
func (s *Store) recoverDir(dir string, low byte, replicas []*replica) (changed []*replica, err error) {
	names, err := s.fs.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		names, err = nil, nil
	}
	if err != nil {
		return nil, disk.Wrap("open disk", dir, err)
	}
	files := make(map[quarry.Handle]found, len(names))
	for _, name := range names {
		if strings.HasSuffix(name, tempSuffix) {
			if err := s.fs.Remove(path.Join(dir, name)); err != nil {
				return nil, disk.Wrap("open disk", name, err)
			}
			continue
		}
		digits, isIndex := strings.CutSuffix(name, indexSuffix)
		h, ok := parseHandle(digits)
		if !ok || byte(h) != low {
			continue // not ours
		}
		f := files[h]
		f.bytes, f.index = f.bytes || !isIndex, f.index || isIndex
		files[h] = f
	}
	for _, r := range replicas {
		before := r.state
		if err := s.recoverReplica(r, files[r.state.Handle]); err != nil {
			return nil, err
		}
		if r.state.Status != before.Status || r.state.flushed != before.flushed {
			changed = append(changed, r)
		}
		delete(files, r.state.Handle)
	}
	for _, h := range slices.Sorted(maps.Keys(files)) {
		if err := s.recoverOrphan(h, files[h]); err != nil {
			return nil, err
		}
	}
	return changed, nil
}

// recoverReplica compares one replica with its files.
func (s *Store) recoverReplica(r *replica, f found) error {
	state, h := &r.state, r.state.Handle
	name := chunkName(h)
	if state.Status == quarry.ReplicaLost {
		return nil
	}
	var size int64
	if f.bytes {
		var err error
		if size, err = s.fs.Size(name); err != nil {
			return disk.Wrap("open disk", name, err)
		}
	}
	if !f.bytes || size < state.flushed {
		state.Status = quarry.ReplicaLost
		r.growth = nil
		return nil
	}
	if g := r.growth; g != nil {
		if f.index {
			if err := s.fs.Remove(name + indexSuffix); err != nil {
				return disk.Wrap("open disk", name, err)
			}
		}
		return s.recoverGrowth(r, g)
	}
	if !f.index {
		state.Status = quarry.ReplicaCorrupt
	}
	if size > state.Length {
		return s.truncate(h, state.Length)
	}
	return nil
}

// recoverGrowth brings the file of a growing replica up to the journal, and verifies its
// last block, which is the one that a crash could have hurt.
func (s *Store) recoverGrowth(r *replica, g *growth) error {
	state := &r.state
	g.captured, g.writeback = state.Length, state.Length
	s.mu.Lock()
	s.reserved += quarry.ChunkBytesMax - state.Length
	s.mu.Unlock()
	if state.Length == 0 {
		return nil
	}
	f, err := s.files.get(state.Handle)
	if err != nil {
		return err
	}
	defer func() {
		if g.file == nil {
			s.files.put(f)
		}
	}()
	replayed := len(g.replayed) > 0
	if replayed {
		if _, err := f.WriteAt(g.replayed, state.flushed); err != nil {
			return disk.Wrap("open disk", state.Handle.String(), err)
		}
		g.replayed = nil
	}
	buf := blocks.Get().(*blockBuffer)
	defer blocks.Put(buf)
	if _, err := buf.load(f, quarry.Blocks(state.Length)-1, state.Length, g.durableTail); err != nil {
		state.Status = quarry.ReplicaCorrupt
		state.flushed = state.Length // so that its record can stand for itself
		return disk.Wrap("open disk", state.Handle.String(), f.Sync())
	}
	if replayed && !s.pin(g, f) {
		state.flushed = state.Length
		return disk.Wrap("open disk", state.Handle.String(), f.Sync())
	}
	return nil
}

// pin keeps open the file of a chunk of which only the journal has some bytes; false if half of the
// files that may be open are kept so: then no more, see mustFlush, or no Write might find room for its file.
// There are more when more files might be open before.
func (s *Store) pin(g *growth, f *openFile) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pinned >= s.opts.FilesMax/2 {
		return false
	}
	g.file = f
	s.pinned++
	return true
}

// recoverOrphan deals with files that belong to no replica.
func (s *Store) recoverOrphan(h quarry.Handle, f found) error {
	if f.bytes && !f.index {
		size, err := s.fs.Size(chunkName(h))
		if err == nil && size == 0 {
			err = s.fs.Remove(chunkName(h))
			return disk.Wrap("open disk", chunkName(h), err)
		}
		if err != nil {
			return disk.Wrap("open disk", chunkName(h), err)
		}
	}
	return s.trashFiles(h, s.opts.Now)
}

// journalChanged makes the states durable that recovery has changed.
func (s *Store) journalChanged(changed []*replica) error {
	var buf []byte
	var cuts []int
	for i, r := range changed {
		buf = r.wholeRecord(buf, &r.state, r.growth, 0)
		cuts = append(cuts, len(buf))
		if len(buf) > commitBytes || i == len(changed)-1 {
			if _, err := s.journal.Write(cutRecords(buf, cuts)...); err != nil {
				return quarry.Wrap("open disk", journalName, err)
			}
			buf, cuts = buf[:0], cuts[:0]
		}
	}
	return nil
}
