package chunks

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

const (
	// mergesMax bounds the files whose pieces are being merged at the same time.
	mergesMax = 2
	// unfitMax bounds the chunks that are remembered as unfit for a merge.
	unfitMax = 1 << 16
)

// unfit is the chunks of runs of which no chunk can be made, whoever tries: their records
// together are too many, or make no table. Without it every new chunk of their file would have
// them fetched again. Forgotten with the leadership, or when it is full. Safe for concurrent use.
type unfit struct {
	mu      sync.Mutex
	handles map[quarry.Handle]bool
}

func (u *unfit) has(h quarry.Handle) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.handles[h]
}

func (u *unfit) add(run []*meta.ChunkRecord) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.handles == nil || len(u.handles)+len(run) > unfitMax {
		u.handles = map[quarry.Handle]bool{}
	}
	for _, c := range run {
		u.handles[c.Handle] = true
	}
}

// never reports whether a merge failed for what its parts are.
func never(err error) bool {
	kind := quarry.KindOf(err)
	return kind == quarry.TooLarge || kind == quarry.Invalid
}

// considerMerge looks, in the background, whether a file that has just got another chunk has a
// run of small pieces, and makes one of them. If too much of this is under way it is left to
// the file's next chunk. No reader or writer waits for it.
func (l *Leader) considerMerge(file quarry.Inode) {
	_, _, _ = l.merges.start(file, func(ctx context.Context) (struct{}, error) {
		err := l.merge(ctx, file)
		if err != nil && ctx.Err() == nil {
			l.Logger.Warn("small pieces could not be merged", "file", file, "error", err)
		}
		return struct{}{}, err
	})
}

// merging is a chunk that is made of others.
type merging struct {
	made
	offset int64 // of the first byte in the file
	run    []*meta.ChunkRecord
	rec    *meta.ChunkRecord // of the new chunk, as the log will have it
}

// merge makes one chunk of a run of small ones of a file: its replicas are put together, on
// servers as for any new chunk, and only when all hold it durably the log puts it in the place
// of the others. These stay where they are, for those who read by an old layout or ask for a
// fate, until the garbage is collected. If anything fails, nothing has changed.
func (l *Leader) merge(ctx context.Context, file quarry.Inode) error {
	if err := l.Log.Confirm(ctx); err != nil {
		return err
	}
	m := &merging{}
	err := l.Log.View(func(v meta.View) error {
		m.offset, m.run = meta.MergeRun(v, file, l.MergePieces, l.unfit.has)
		return nil
	})
	if err != nil || len(m.run) == 0 {
		return err
	}
	if m.handle, err = l.handles.take(ctx, file.Slot()); err != nil {
		return err
	}
	m.rec = &meta.ChunkRecord{Handle: m.handle, Version: 2, WritableVersion: 1, File: file, Position: m.offset}
	for _, c := range m.run {
		m.rec.Length += c.Length
	}
	if m.members, err = l.choose(ctx, &plan{slot: file.Slot(), file: file, position: m.offset}, m.handle); err != nil {
		l.handles.settle(m.handle)
		return err
	}
	if err = l.gather(ctx, m); err != nil {
		if never(err) {
			l.unfit.add(m.run)
		}
		l.undo(m)
		return err
	}
	return l.logMerge(ctx, m)
}

// gather has the members put their replicas together, and returns an error unless all hold the
// same bytes. If one says that it can never be, that is the error.
func (l *Leader) gather(ctx context.Context, m *merging) error {
	parts, err := l.parts(m)
	if err != nil {
		return err
	}
	if len(m.members) < 2 {
		return quarry.Errorf("merge", quarry.Unavailable, "", "there is one server for the merged chunk")
	}
	answers := make([]confirmation, len(m.members))
	errs := parallel(len(m.members), func(i int) error {
		if err := l.gatherAt(ctx, m, m.members[i], parts); err != nil {
			return quarry.Wrap("gather", m.members[i].Address, err)
		}
		answers[i] = l.sealAt(ctx, m.members[i], m.rec)
		return nil
	})
	if i := slices.IndexFunc(errs, never); i >= 0 && !off(MergedUnheld) {
		return errs[i]
	}
	for i, err := range errs {
		if off(MergedUnheld) {
			continue
		}
		if err != nil {
			return err
		}
		if !answers[i].holds || answers[i].crc != answers[0].crc {
			return quarry.Errorf("merge", quarry.Corrupt, m.members[i].Address, "the merged replica is not whole, or has other bytes than another")
		}
	}
	m.rec.CRC, m.rec.CRCKnown = answers[0].crc, true
	return nil
}

func (l *Leader) gatherAt(ctx context.Context, m *merging, at quarry.Member, parts []quarry.CopyPart) error {
	ctx, cancel := l.Clock.WithTimeout(ctx, mergeSlack+passing(m.rec.Length, min(mergeLeast, l.RepairBytesPerSecond)))
	defer cancel()
	ref := l.ref(m.handle, m.rec.Version, at.Incarnation)
	ref.Capability = l.Keys().Sign(l.Cluster, m.handle, quarry.RightControl|quarry.RightRead)
	return l.Servers.Dial(at).Copy(ctx, &quarry.CopyRequest{
		ChunkRef: ref, Disk: at.Disk, Length: m.rec.Length, WritableVersion: m.rec.WritableVersion,
		File: m.rec.File, Position: m.rec.Position, BytesPerSecond: l.RepairBytesPerSecond,
		BytesPerSecondLeast: min(mergeLeast, l.RepairBytesPerSecond), Parts: parts,
	})
}

const (
	// mergeSlack is what putting a replica together may take beyond its length at the least rate.
	mergeSlack = 20 * time.Second
	// mergeLeast is the rate, in bytes a second, down to which that yields to clients: nothing is in danger.
	mergeLeast = 4 << 20
)

// parts returns the parts of a merged chunk with the servers that hold them and are alive.
func (l *Leader) parts(m *merging) ([]quarry.CopyPart, error) {
	var parts []quarry.CopyPart
	for _, c := range m.run {
		p := quarry.CopyPart{Handle: c.Handle, Version: c.Version, Length: c.Length}
		for _, r := range c.Replicas {
			if at, ok := l.present(r.Server); ok && r.State == meta.ReplicaHolding && l.roster.reachable(r.Server, r.Disk) && len(p.Sources) < quarry.ReplicasMax {
				at.Disk = r.Disk
				p.Sources = append(p.Sources, at)
			}
		}
		if len(p.Sources) == 0 {
			return nil, quarry.Errorf("merge", quarry.Unavailable, c.Handle.String(), "no server that holds the chunk is alive")
		}
		parts = append(parts, p)
	}
	return parts, nil
}

// logMerge logs that the merged chunk takes the place of the others. Its replicas serve already,
// so there is nothing to be done after the entry, whoever leads by then.
func (l *Leader) logMerge(ctx context.Context, m *merging) error {
	body := &meta.Merge{File: m.rec.File, Offset: m.offset, Chunk: m.entry(l.Copies), CRC: m.rec.CRC}
	for _, c := range m.run {
		body.Parts = append(body.Parts, meta.MergePart{Handle: c.Handle, Version: c.Version})
	}
	r, err := l.apply(ctx, quarry.Op{}, body)
	switch {
	case err != nil && (notApplied(err) || quarry.KindOf(err) == quarry.Unsupported):
		l.undo(m)
		return err
	case err != nil:
		return err // the entry may be applied yet: the handle stays in hand
	case r.Err != nil:
		l.undo(m)
		return r.Err
	}
	l.handles.settle(m.handle)
	l.Logger.Info("small pieces are merged", "file", m.rec.File, "pieces", len(m.run), "chunk", m.handle, "length", m.rec.Length)
	return nil
}

// undo removes what there may be of a merged chunk that will never be logged.
func (l *Leader) undo(m *merging) {
	l.spawn(func(ctx context.Context) {
		parallel(len(m.members), func(i int) error {
			l.dropAt(ctx, m.members[i], m.handle, m.rec.Version)
			return nil
		})
		l.handles.settle(m.handle)
	})
}
