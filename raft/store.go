package raft

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/wire"
)

// groupID is short for the identity of a group.
type groupID = quarry.ShardID

// The keys of the state store. Every key begins with keyGroup and the group; a kind follows.
//
//	0  1  keyGroup, 1
//	1  8  group, big-endian, so that a group's keys stand together
//	9  1  kind: keyApplied, 1, and keyMembers, 2 (no more bytes follow), or keyData, 3
//	10 .  keyData: the key of the state machine
//
// The value of keyApplied is written in the batch of the commands it speaks of:
//
//	0  8  index of the last applied entry, little-endian
//	8  8  its term
//
// The value of keyMembers is a membership (membersFields), written in the batch of the
// change that made it.
const (
	keyGroup   = 0x01
	keyApplied = 0x01
	keyMembers = 0x02
	keyData    = 0x03

	dataPrefixBytes = 10
	appliedBytes    = 16
)

// stateFormat is the layout of Pebble's files. A node opens older ones and raises them.
const stateFormat = pebble.FormatWALSyncChunks

func putDataPrefix(dst []byte, id groupID) {
	dst[0] = keyGroup
	binary.BigEndian.PutUint64(dst[1:], uint64(id))
	dst[9] = keyData
}

func metaKey(id groupID, kind byte) []byte {
	k := make([]byte, dataPrefixBytes)
	putDataPrefix(k, id)
	k[9] = kind
	return k
}

// groupSpan returns the range of all keys of a group.
func groupSpan(id groupID) pebble.KeyRange {
	lo, hi := metaKey(id, 0)[:9], metaKey(id+1, 0)[:9]
	if id+1 == 0 {
		hi = []byte{keyGroup + 1}
	}
	return pebble.KeyRange{Start: lo, End: hi}
}

// applied says up to where a group's state has come.
type applied struct{ index, term uint64 }

func (a applied) encode(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, a.index)
	return binary.LittleEndian.AppendUint64(dst, a.term)
}

func decodeApplied(b []byte) (applied, error) {
	if len(b) != appliedBytes {
		return applied{}, quarry.Errorf("read state", quarry.Corrupt, "", "the applied index has %d bytes instead of %d", len(b), appliedBytes)
	}
	return applied{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])}, nil
}

// store is the state of all groups of a node, in one Pebble. Commits are not synced: the
// Raft log has the commands again. What barrier returns for is on disk.
type store struct {
	db   *pebble.DB
	opts *pebble.Options
	fs   vfs.FS
	dir  string

	tables sstable.TableFormat // of tables to be taken in
	broken atomic.Bool         // it cannot even be closed
}

// openStore opens the state in dir. fail is called if Pebble can no longer go on.
func openStore(fs vfs.FS, dir string, cacheBytes int64, log *slog.Logger, fail func(error)) (*store, error) {
	// A write that has failed may bring Pebble down in ways that tell nothing.
	fs = vfs.OnDiskFull(fs, func() {
		fail(quarry.Errorf("write state", quarry.NoSpace, dir, "%w", syscall.ENOSPC))
	})
	s := &store{dir: dir}
	fs = &guardFS{FS: fs, failed: func(path string, err error) {
		s.broken.Store(true)
		fail(disk.Wrap("write state", path, err))
	}}
	s.fs = fs
	opts := &pebble.Options{
		FS:                 fs,
		FormatMajorVersion: stateFormat,
		CacheSize:          cacheBytes,
		MemTableSize:       16 << 20,
		WALBytesPerSync:    512 << 10,
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) {
				fail(disk.Wrap("write state", dir, err)) // Pebble would try again until writers hang
			},
			// Without this Pebble takes its last leave, see storeLogger, where the reader is.
			DataCorruption: func(info pebble.DataCorruptionInfo) {
				fail(quarry.Errorf("read state", quarry.Corrupt, info.Path, "%w; %s", info.Details, replaceAdvice))
			},
		},
		Logger: &storeLogger{log: log, fail: fail, broken: &s.broken},
	}
	for i := range opts.Levels {
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	// A snapshot is rarely installed; the plain way of ingesting has fewer parts.
	opts.Experimental.DisableIngestAsFlushable = func() bool { return true }
	opts.EnsureDefaults() // Open works on a copy, and tables are written with these
	if err := fs.MkdirAll(dir, 0o755); err != nil {
		return nil, disk.Wrap("open state", dir, err)
	}
	db, err := pebble.Open(dir, opts)
	if err != nil {
		if pebble.IsCorruptionError(err) {
			return nil, &quarry.Error{Op: "open state", Kind: quarry.Corrupt, Subject: dir, Err: err}
		}
		return nil, disk.Wrap("open state", dir, err)
	}
	s.db, s.opts, s.tables = db, opts, db.TableFormat()
	return s, nil
}

// barrier returns when everything committed before is on disk.
func (s *store) barrier() error {
	return s.db.LogData([]byte("barrier"), pebble.Sync)
}

// getMeta returns a copy of a group's own value, nil if there is none.
func getMeta(src source, id groupID, kind byte) ([]byte, error) {
	v, closer, err := src.Get(metaKey(id, kind))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, quarry.Wrap("read state", fmt.Sprintf("group %d", id), err)
	}
	v = bytes.Clone(v)
	return v, closer.Close()
}

// groupState is what the store knows of a group beside the data.
type groupState struct {
	applied applied
	members membership
}

// loadGroup returns the state of a group; zero if the group has none.
func loadGroup(src source, id groupID) (groupState, error) {
	var st groupState
	a, err := getMeta(src, id, keyApplied)
	if err != nil || a == nil {
		return st, err
	}
	if st.applied, err = decodeApplied(a); err != nil {
		return st, err
	}
	m, err := getMeta(src, id, keyMembers)
	if err != nil {
		return st, err
	}
	if m == nil {
		return st, quarry.Errorf("read state", quarry.Corrupt, fmt.Sprintf("group %d", id), "the state has no members")
	}
	if err := wire.Unmarshal(m, &st.members, membersFields); err != nil {
		return st, &quarry.Error{Op: "read state", Kind: quarry.Corrupt, Subject: fmt.Sprintf("group %d", id), Err: err}
	}
	return st, nil
}

// put adds the group's state to a batch.
func (st *groupState) put(b *pebble.Batch, id groupID) error {
	if err := b.Set(metaKey(id, keyMembers), wire.Marshal(nil, &st.members, membersFields), nil); err != nil {
		return err
	}
	return b.Set(metaKey(id, keyApplied), st.applied.encode(nil), nil)
}

// groups returns the groups that have a state, in ascending order.
func (s *store) groups() ([]groupID, error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{keyGroup}, UpperBound: []byte{keyGroup + 1}})
	if err != nil {
		return nil, err
	}
	var ids []groupID
	for ok := it.First(); ok; {
		k := it.Key()
		if len(k) < dataPrefixBytes {
			_ = it.Close() // nothing was written
			return nil, quarry.Errorf("read state", quarry.Corrupt, s.dir, "a key has %d bytes", len(k))
		}
		id := groupID(binary.BigEndian.Uint64(k[1:]))
		ids = append(ids, id)
		if id+1 == 0 {
			break
		}
		ok = it.SeekGE(groupSpan(id).End)
	}
	if err := it.Error(); err != nil {
		_ = it.Close() // the first error is the one that counts
		return nil, err
	}
	return ids, it.Close()
}

// install replaces a group's keys by the tables at paths, in one step: after a crash all of
// the old state is there or all of the new. It is durable when install returns.
func (s *store) install(ctx context.Context, id groupID, paths []string) error {
	_, err := s.db.IngestAndExcise(ctx, paths, nil, nil, groupSpan(id))
	return err
}

func (s *store) close() error { return s.db.Close() }

// storeLogger passes Pebble's words on. Pebble calls Fatalf when it cannot go on, with its
// locks held; the host stops, and the goroutine must not return into Pebble.
type storeLogger struct {
	log    *slog.Logger
	fail   func(error)
	broken *atomic.Bool
}

func (l *storeLogger) Infof(format string, args ...any) {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		l.log.Debug("pebble: " + fmt.Sprintf(format, args...))
	}
}

func (l *storeLogger) Errorf(format string, args ...any) {
	l.log.Error("pebble: " + fmt.Sprintf(format, args...))
}

func (l *storeLogger) Fatalf(format string, args ...any) {
	l.broken.Store(true)
	l.fail(quarry.Errorf("state", quarry.Internal, "", format, args...))
	runtime.Goexit()
}
