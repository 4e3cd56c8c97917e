package transfer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"

	"github.com/quarryfs/quarry"
)

// SyncOptions say how a [Sync] is done.
type SyncOptions struct {
	Options
	Delete   bool // what is only in the target is removed, when all else was done without an error
	DryRun   bool // nothing is done, but everything is reported
	Checksum bool // files of one length are compared byte by byte, and their times do not matter
}

// Sync makes one directory like another one: what is in it, not what it is called. A file is
// copied if its length is another one on the other side, or if it was changed later than the one
// there; with Checksum, if any byte differs. A cluster's file has the time at which it was stored,
// a local one that was copied from a cluster has the time of that one: so what was copied, in
// either direction, is not copied again.
//
// The target is made if it does not exist. Where one side has a file and the other one a
// directory, the target's is replaced only with Delete.
func Sync(ctx context.Context, from, to Tree, source, target string, o SyncOptions) (Summary, error) {
	root, err := from.Stat(ctx, source)
	switch {
	case err != nil:
		return Summary{}, err
	case root.Kind != Dir:
		return Summary{}, quarry.Errorf("sync", quarry.NotDir, source, "directories are made alike; put, get and cp copy files")
	}
	if err := checkApart(from, to, source, target); err != nil {
		return Summary{}, err
	}
	if err := checkApart(from, to, target, source); err != nil {
		return Summary{}, err
	}
	there, err := to.Stat(ctx, target)
	switch {
	case quarry.KindOf(err) == quarry.NotFound:
	case err != nil:
		return Summary{}, err
	case there.Kind != Dir:
		return Summary{}, quarry.Errorf("sync", quarry.NotDir, target, "a file has this name")
	}
	s := &syncing{run: newRun(ctx, from, to, o.Options), o: o}
	defer s.cancel(nil)
	exists := err == nil
	if !exists && !s.make(source, target, to.MkdirAll) {
		return s.end(ctx)
	}
	s.dir(source, target, exists)
	s.work.Wait()
	if exists && o.Delete && s.clean() {
		s.extra(source, target)
	}
	return s.end(ctx)
}

// syncing is one Sync under way.
type syncing struct {
	*run
	o SyncOptions
}

// clean reports whether nothing has failed.
func (s *syncing) clean() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sum.Failed == 0 && s.ctx.Err() == nil
}

// make makes a directory of the target; false if that fails.
func (s *syncing) make(from, to string, mkdir func(context.Context, string) error) bool {
	var err error
	if !s.o.DryRun {
		err = mkdir(s.ctx, to)
	}
	s.did(Event{Action: "mkdir", From: from, To: to, Err: err})
	return err == nil
}

// delete removes something of the target; false if that fails.
func (s *syncing) delete(path string) bool {
	var err error
	if !s.o.DryRun {
		err = s.to.Remove(s.ctx, path)
	}
	s.did(Event{Action: "delete", To: path, Err: err})
	return err == nil
}

// dir copies what is different in a directory and below it.
func (s *syncing) dir(from, to string, exists bool) {
	for p, err := range s.both(from, to, exists) {
		switch {
		case s.ctx.Err() != nil:
			return
		case err != nil:
			s.did(Event{Action: "copy", From: from, To: to, Err: err})
			return
		case p.from != nil:
			s.one(*p.from, p.to, s.to.Join(to, p.from.Name))
		}
	}
}

// one makes what is at a path of the target like an entry; there is what is there, nil if nothing.
func (s *syncing) one(e Entry, there *Entry, to string) {
	if e.Kind == Other {
		s.entry(e, to)
		return
	}
	if there != nil && (e.Kind == Dir) != (there.Kind == Dir) {
		if !s.o.Delete {
			kind := quarry.NotDir
			if there.Kind == Dir {
				kind = quarry.IsDir
			}
			s.did(Event{Action: "copy", From: e.Path, To: to, Err: quarry.Errorf("sync", kind, to, "it is a %v here and a %v there; --delete replaces it", there.Kind, e.Kind)})
			return
		}
		if !s.delete(to) {
			return
		}
		there = nil
	}
	switch {
	case e.Kind == Dir:
		if there != nil || s.make(e.Path, to, s.to.Mkdir) {
			s.dir(e.Path, to, there != nil)
		}
	case there == nil || there.Kind == Other || e.Size != there.Size || !s.o.Checksum && e.Modified.After(there.Modified):
		s.replace(e, to)
	case s.o.Checksum:
		s.compare(e, *there)
	default:
		s.same()
	}
}

func (s *syncing) same() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sum.Same++
}

// replace copies a file.
func (s *syncing) replace(e Entry, to string) {
	if s.o.DryRun {
		s.did(Event{Action: "copy", From: e.Path, To: to, Size: e.Size})
		return
	}
	s.file(e, to)
}

// compare reads both files, and copies one if they differ.
func (s *syncing) compare(e, there Entry) {
	s.run.o.Progress.Found(1, e.Size)
	s.start(e.Size, func() {
		bar := s.run.o.Progress.Begin(e.Path, e.Size)
		alike, err := s.alike(e.Path, there.Path, bar)
		n := e.Size
		if err == nil && !alike && !s.o.DryRun {
			n, err = s.copy(e, there.Path, bar)
		}
		bar.End(err)
		if alike && err == nil {
			s.same()
			return
		}
		s.did(Event{Action: "copy", From: e.Path, To: there.Path, Size: n, Err: err})
	})
}

// compareBytes is how much of two files is compared at a time.
const compareBytes = 1 << 20

// alike reports whether two files have the same bytes.
func (s *syncing) alike(from, to string, bar Bar) (bool, error) {
	a, err := s.from.Open(s.ctx, from)
	if err != nil {
		return false, err
	}
	defer a.Close()
	b, err := s.to.Open(s.ctx, to)
	if err != nil {
		return false, err
	}
	defer b.Close()
	return alike(a, b, func(n int) error {
		bar.Add(n)
		return s.run.o.Limit.Wait(s.ctx, n)
	})
}

// alike reports whether two readers give the same bytes. It tells moved of those that it has compared.
func alike(a, b io.Reader, moved func(n int) error) (bool, error) {
	p, q := make([]byte, compareBytes), make([]byte, compareBytes)
	for {
		n, errA := io.ReadFull(a, p)
		m, errB := io.ReadFull(b, q)
		switch {
		case errA != nil && !ended(errA):
			return false, errA
		case errB != nil && !ended(errB):
			return false, errB
		case !bytes.Equal(p[:n], q[:m]):
			return false, nil
		case errA != nil: // both: they are as long as each other
			return true, nil
		}
		if err := moved(n); err != nil {
			return false, err
		}
	}
}

func ended(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// extra removes what is only in the target.
func (s *syncing) extra(from, to string) {
	for p, err := range s.both(from, to, true) {
		switch {
		case s.ctx.Err() != nil:
			return
		case err != nil:
			s.did(Event{Action: "delete", To: to, Err: err})
			return
		case p.from == nil:
			path := p.to.Path
			s.start(0, func() { s.delete(path) })
		case p.to != nil && p.from.Kind == Dir && p.to.Kind == Dir:
			s.extra(p.from.Path, p.to.Path)
		}
	}
}

// twins are the entries that have one name on both sides; nil where there is none.
type twins struct{ from, to *Entry }

// both goes through two directories side by side, in the order of the names' bytes. That both are
// listed in this order is checked: what is taken for missing may be removed on the other side.
func (s *syncing) both(from, to string, exists bool) iter.Seq2[twins, error] {
	return func(yield func(twins, error) bool) {
		a := newListing(s.from.List(s.ctx, from))
		defer a.stop()
		b := newListing(func(func(Entry, error) bool) {})
		if exists {
			b = newListing(s.to.List(s.ctx, to))
		}
		defer b.stop()
		for {
			if err := errors.Join(a.err, b.err); err != nil {
				yield(twins{}, err)
				return
			}
			var t twins
			switch {
			case a.at == nil && b.at == nil:
				return
			case b.at == nil || a.at != nil && a.at.Name < b.at.Name:
				t.from = a.at
			case a.at == nil || b.at.Name < a.at.Name:
				t.to = b.at
			default:
				t.from, t.to = a.at, b.at
			}
			if !yield(t, nil) {
				return
			}
			if t.from != nil {
				a.next()
			}
			if t.to != nil {
				b.next()
			}
		}
	}
}

// listing is a directory that is gone through.
type listing struct {
	at   *Entry // nil at the end
	err  error
	pull func() (Entry, error, bool)
	stop func()
}

func newListing(of iter.Seq2[Entry, error]) *listing {
	l := &listing{}
	l.pull, l.stop = iter.Pull2(of)
	l.next()
	return l
}

func (l *listing) next() {
	e, err, ok := l.pull()
	before := l.at
	l.at = nil
	switch {
	case !ok:
	case err != nil:
		l.err = err
	case before != nil && e.Name <= before.Name:
		l.err = quarry.Errorf("list", quarry.Internal, e.Path, "%q comes behind %q", e.Name, before.Name)
	default:
		l.at = &e
	}
}
