package chunks

import (
	"sync"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

// crumbs returns a file with n small sealed chunks, of which all replicas hold, and an open one.
func (w *world) crumbs(name string, n int) (quarry.Inode, []quarry.Handle) {
	w.t.Helper()
	file := w.file(name)
	var handles []quarry.Handle
	c := w.roll(file, quarry.Chunk{})
	for range n {
		w.append(c, 100)
		handles = append(handles, c.Handle)
		last := c.Handle
		c = w.roll(file, c)
		w.until("the seal is confirmed", time.Second, func() bool { return w.holds(last, 3) })
	}
	return file, append(handles, c.Handle)
}

func (w *world) layout(file quarry.Inode) *quarry.LocateReply {
	w.t.Helper()
	var l *quarry.LocateReply
	err := w.log.View(func(v meta.View) (err error) {
		l, err = meta.Locate(v, &quarry.LocateRequest{File: file, Max: quarry.PiecesMax})
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

// merged waits until n old chunks have become the file's first piece, and checks it.
func (w *world) merged(file quarry.Inode, old []quarry.Handle) {
	w.t.Helper()
	w.until("the pieces are merged", 10*time.Second, func() bool { return w.layout(file).Pieces[0].Length == int64(len(old))*100 })
	l := w.layout(file)
	p := l.Pieces[0]
	if p.Length != int64(len(old))*100 || p.Offset != 0 {
		w.t.Fatalf("the first piece is %+v", p)
	}
	rec := w.record(p.Handle)
	if rec.State != quarry.ChunkSealed || rec.Count(meta.ReplicaHolding) != 3 || rec.CRC != crcOf(p.Handle, p.Length) {
		w.t.Fatalf("the merged chunk is %+v", rec)
	}
	w.until("all replicas serve", 5*time.Second, func() bool {
		for _, r := range rec.Replicas {
			if !w.net.server(r.Server).has(p.Handle).Serving {
				return false
			}
		}
		return true
	})
	for _, h := range old {
		if c := w.record(h); c == nil || c.Freed == 0 || !w.holds(h, 3) {
			w.t.Errorf("old chunk %v is %+v", h, c)
		}
	}
}

// more gives a file chunks that are not small until something is so: each brings a try to merge
// what was before.
func (w *world) more(file quarry.Inode, what string, ok func() bool) {
	w.t.Helper()
	w.until(what, 60*time.Second, func() bool {
		if ok() {
			return true
		}
		reply, err := w.tryRoll(file, quarry.Chunk{})
		if err != nil {
			return false
		}
		w.append(reply.Chunk, 5<<20)
		_, _ = w.tryRoll(file, reply.Chunk)
		w.pass(8 * time.Second)
		return ok()
	})
}

func TestMergeOfCrumbs(t *testing.T) {
	inWorld(t, 5, func(w *world) {
		file, handles := w.crumbs("a", meta.MergeMin-1)
		w.pass(2 * time.Second)
		l := w.layout(file)
		if len(l.Pieces) != meta.MergeMin {
			w.t.Fatalf("%d pieces: fewer are not worth it", len(l.Pieces))
		}
		w.append(quarry.Chunk{Handle: handles[meta.MergeMin-1], Version: 1, Members: w.members(handles[meta.MergeMin-1])}, 100)
		w.roll(file, quarry.Chunk{Handle: handles[meta.MergeMin-1], Version: 1})
		w.more(file, "one is tried", func() bool { return w.layout(file).Pieces[0].Length == meta.MergeMin*100 })
		w.merged(file, handles)
		w.append(w.roll(file, quarry.Chunk{}), 10)
	})
}

// members returns the members of an open chunk.
func (w *world) members(h quarry.Handle) []quarry.Member {
	c := w.record(h).Chunk()
	w.lead().Complete(&c, 0)
	return c.Members
}

// TestMergeThatFails: a member does not put its replica together, or the leader does not know
// whether the merge was logged. Nothing is lost, and the file's next chunk brings another try.
func TestMergeThatFails(t *testing.T) {
	for _, how := range []string{"a member fails", "a member is silent", "the answer of the log is lost", "deposed after the entry"} {
		t.Run(how, func(t *testing.T) {
			inWorld(t, 5, func(w *world) {
				var mu sync.Mutex
				failed := false
				once := func() bool {
					mu.Lock()
					defer mu.Unlock()
					was := failed
					failed = true
					return !was
				}
				file, handles := w.crumbs("a", meta.MergeMin-1)
				w.append(quarry.Chunk{Handle: handles[meta.MergeMin-1], Version: 1, Members: w.members(handles[meta.MergeMin-1])}, 100)
				w.net.setFault(func(op string, _ *fakeServer, _ quarry.ChunkRef) error {
					switch {
					case op != "gather" || how[0] != 'a' || !once():
						return nil
					case how == "a member fails":
						return quarry.Errorf("copy", quarry.NoSpace, "", "full")
					}
					return errSilent
				})
				w.log.setFault(func(body meta.Body) error {
					if _, ok := body.(*meta.Merge); !ok || how[0] == 'a' || !once() {
						return nil
					}
					if how == "the answer of the log is lost" {
						return errReplyLost
					}
					return errDeposedAfter
				})
				_, _ = w.tryRoll(file, quarry.Chunk{Handle: handles[meta.MergeMin-1], Version: 1})
				tried := func() bool { mu.Lock(); defer mu.Unlock(); return failed }
				w.more(file, "it was tried", tried)
				if how == "deposed after the entry" {
					w.failover()
				}
				w.more(file, "the pieces are merged", func() bool { return w.layout(file).Pieces[0].Length == meta.MergeMin*100 })
				w.merged(file, handles)
				if how != "the answer of the log is lost" {
					w.until("no handle stays in hand", time.Minute, func() bool { return len(w.lead().handles.inHand()) == 0 })
				}
			})
		})
	}
}

// TestMergeServes: a leader ends right after its entry of a merge, with or without the entry
// applied. Readers by the new leader's layout are served at once, by all members; replicas that
// no entry names are dropped when an inventory tells of them.
func TestMergeServes(t *testing.T) {
	for _, how := range []string{"logged", "not logged"} {
		t.Run(how, func(t *testing.T) {
			inWorld(t, 5, func(w *world) {
				var mu sync.Mutex
				var made quarry.Handle
				tried := func() quarry.Handle { mu.Lock(); defer mu.Unlock(); return made }
				file, handles := w.crumbs("a", meta.MergeMin-1)
				last := quarry.Chunk{Handle: handles[meta.MergeMin-1], Version: 1}
				last.Members = w.members(last.Handle)
				w.append(last, 100)
				w.log.setFault(func(body meta.Body) error {
					m, ok := body.(*meta.Merge)
					if !ok || tried() != 0 {
						return nil
					}
					mu.Lock()
					defer mu.Unlock()
					made = m.Chunk.Handle
					if how == "logged" {
						return errDeposedAfter
					}
					return quarry.Errorf("propose", quarry.Unknown, "", "the leader ends before the entry is out")
				})
				w.net.setFault(func(op string, _ *fakeServer, _ quarry.ChunkRef) error {
					if op == "add" {
						return quarry.Errorf("add", quarry.Unavailable, "", "no word comes after the entry")
					}
					return nil
				})
				_, _ = w.tryRoll(file, quarry.Chunk{Handle: last.Handle, Version: 1})
				w.more(file, "it was tried", func() bool { return tried() != 0 })
				w.failover()
				h := tried()
				if how == "not logged" {
					w.unnamed(h)
					return
				}
				l := w.layout(file)
				if p := l.Pieces[0]; p.Handle != h || p.Length != int64(len(handles))*100 {
					w.t.Fatalf("the first piece is %+v, not chunk %v", p, h)
				}
				for _, r := range w.record(h).Replicas {
					if !w.net.server(r.Server).has(h).Serving {
						w.t.Errorf("server %d does not serve the chunk", r.Server)
					}
				}
			})
		})
	}
}

// unnamed checks that inventories end the replicas of a chunk that no entry names.
func (w *world) unnamed(h quarry.Handle) {
	w.t.Helper()
	held := 0
	for _, id := range w.List() {
		if s := w.net.server(id); s.has(h).Status == quarry.ReplicaGood {
			held++
			s.kill()
			w.restart(s)
			w.until("the replica is dropped", time.Minute, func() bool { return s.has(h).Status == quarry.ReplicaMissing })
		}
	}
	if held != 3 {
		w.t.Errorf("%d replicas were put together", held)
	}
}

// TestMergeThatCannotBe: a run whose records are too many is tried once, and not with each new
// chunk of the file; other runs of the file are merged.
func TestMergeThatCannotBe(t *testing.T) {
	inWorld(t, 5, func(w *world) {
		var mu sync.Mutex
		tried := map[quarry.Handle]bool{}
		tries := func() int { mu.Lock(); defer mu.Unlock(); return len(tried) }
		w.net.setFault(func(op string, _ *fakeServer, ref quarry.ChunkRef) error {
			if op != "gather" {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			tried[ref.Handle] = true
			return quarry.Errorf("gather", quarry.TooLarge, "", "too many records")
		})
		file, handles := w.crumbs("a", meta.MergeMin)
		w.until("it was tried", 10*time.Second, func() bool { return tries() == 1 })
		last := quarry.Chunk{Handle: handles[meta.MergeMin], Version: 1}
		last.Members = w.members(last.Handle)
		for range 3 {
			w.append(last, 5<<20)
			last = w.roll(file, last)
			w.pass(5 * time.Second)
		}
		if n := tries(); n != 1 {
			w.t.Errorf("it was tried %d times", n)
		}
		w.until("no handle stays in hand", time.Minute, func() bool { return len(w.lead().handles.inHand()) == 0 })
		w.net.setFault(nil)
		for range meta.MergeMin {
			w.append(last, 100)
			last = w.roll(file, last)
			w.pass(5 * time.Second)
		}
		w.until("the others are merged", 10*time.Second, func() bool {
			p := w.layout(file).Pieces
			return p[0].Length == 100 && p[meta.MergeMin+3].Length == meta.MergeMin*100
		})
	})
}
