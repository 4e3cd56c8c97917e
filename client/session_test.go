package client_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/client/clienttest"
)

func TestMutationsHappenOnce(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		for _, op := range []string{"make", "link", "rename", "remove"} {
			e.c.LoseAnswers(op, 2)
		}
		ctx := e.Context()
		e.must(e.files.Mkdir(ctx, "/a"))
		e.put("/a/f", []byte("x"))
		e.must(e.files.Rename(ctx, "/a/f", "/a/g"))
		e.must(e.files.Remove(ctx, "/a/g"))
		_, err := e.files.Stat(ctx, "/a/g")
		e.want(err, fs.ErrNotExist)
	})
}

// Sessions are kept alive while the client lives, and are ended with it.
func TestSessionsLive(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		other := e.c.Client(client.Options{})
		e.must(other.Mkdir(e.Context(), "/a"))
		e.must(other.Mkdir(e.Context(), "/a/b")) // in both shards, perhaps
		e.must(other.Mkdir(e.Context(), "/b"))
		e.must(other.Mkdir(e.Context(), "/b/b"))
		if n := e.c.Sessions(); n != 2 {
			e.Errorf("%d sessions, want one at each shard", n)
		}
		e.sleep(time.Hour)
		if n := e.c.Sessions(); n != 2 {
			e.Errorf("%d sessions after an hour", n)
		}
		e.must(other.Mkdir(e.Context(), "/a/c"))
		e.must(other.Close())
		if n := e.c.Sessions(); n != 0 {
			e.Errorf("%d sessions after the end", n)
		}
		e.want(other.Mkdir(e.Context(), "/a/d"), quarry.Unavailable)
	})
}

// An operation in a session that has expired has an unknown outcome; the next one has
// another session.
func TestSessionExpires(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		e.must(e.files.Mkdir(e.Context(), "/a"))
		e.c.ExpireSessions()
		e.want(e.files.Mkdir(e.Context(), "/c"), quarry.Unknown)
		e.must(e.files.Mkdir(e.Context(), "/e"))
	})
}

// A client that slept for longer than its session lives asks before it depends on it.
func TestSessionIsRenewedBeforeUse(t *testing.T) {
	run(t, clienttest.Config{Expiry: 10 * time.Second}, client.Options{}, func(e *env) {
		e.must(e.files.Mkdir(e.Context(), "/a"))
		e.c.Fail("session", quarry.Errorf("session", quarry.Unavailable, "", "cut off")) // as if asleep
		e.sleep(time.Minute)
		e.c.Fail("session", nil)
		e.must(e.files.Mkdir(e.Context(), "/c"))
	})
}

// Many callers open one session.
func TestSessionIsShared(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		e.must(e.files.Mkdir(e.Context(), "/a"))
		var wg sync.WaitGroup
		for i := range 500 {
			wg.Go(func() {
				if err := e.files.Mkdir(e.Context(), "/a/"+strings.Repeat("x", i%200+1)); err != nil && !errors.Is(err, fs.ErrExist) {
					e.Error(err)
				}
			})
		}
		wg.Wait()
		if n := e.c.Sessions(); n > 2 {
			e.Errorf("%d sessions", n)
		}
		entries := 0
		for info, err := range e.files.Entries(e.Context(), "/a") {
			e.must(err)
			if !info.IsDir() {
				e.Errorf("%s is no directory", info.Path)
			}
			entries++
		}
		if entries != 200 {
			e.Errorf("%d entries, want 200", entries)
		}
	})
}

func TestUnknownOutcome(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		e.must(e.files.Mkdir(e.Context(), "/a"))
		e.c.LoseAnswers("make", 1000)
		ctx, cancel := context.WithTimeout(e.Context(), time.Second)
		defer cancel()
		err := e.files.Mkdir(ctx, "/a/b")
		e.want(err, quarry.Unknown)
		e.want(err, context.DeadlineExceeded)
		e.c.LoseAnswers("make", 0)
		e.want(e.files.Mkdir(e.Context(), "/a/b"), fs.ErrExist)
	})
}

func TestListingPages(t *testing.T) {
	run(t, clienttest.Config{}, client.Options{}, func(e *env) {
		e.must(e.files.Mkdir(e.Context(), "/a"))
		for i := range 2500 {
			_, err := e.files.Put(e.Context(), "/a/"+string(rune('a'+i%26))+strings.Repeat("y", i/26), bytes.NewReader(nil), client.PutOptions{})
			e.must(err)
		}
		n, last := 0, ""
		for info, err := range e.files.Entries(e.Context(), "/a") {
			e.must(err)
			if info.Name() <= last {
				e.Fatalf("%q comes after %q", info.Name(), last)
			}
			last = info.Name()
			n++
		}
		if lists := e.c.Count("list"); n != 2500 || lists != 3 {
			e.Errorf("%d entries in %d pages", n, lists)
		}
	})
}

// An operation that a shard refuses because the slot has moved was not done: it is done when the
// client has learnt where the slot is, and with a number of its own.
func TestSlotHasMoved(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		e.must(e.files.Mkdir(e.Context(), "/a"))
		asked := e.c.Count("topology")
		e.c.Fail("make", quarry.Errorf("make", quarry.WrongShard, "", "it lives elsewhere"))
		var wg sync.WaitGroup
		wg.Go(func() { e.must(e.files.Mkdir(e.Context(), "/b")) })
		e.sleep(time.Second)
		e.c.Fail("make", nil)
		wg.Wait()
		if e.c.Count("topology") == asked {
			e.Error("the map was not asked for")
		}
		e.c.Fail("make", quarry.Errorf("make", quarry.WrongShard, "", "it lives elsewhere"))
		e.want(e.files.Mkdir(e.Context(), "/c"), quarry.Unavailable)
	})
}

// all is every slot.
var all = quarry.SlotRange{Last: quarry.Slots - 1}

// relearn has a client ask for the slot map, by refusing one of its renames for a while.
func relearn(e *env, f *client.FS, from, to string) {
	e.Helper()
	e.c.Fail("rename", &quarry.Error{Op: "rename", Kind: quarry.WrongShard, Err: &quarry.WrongShardError{Slot: 1}}) // not the session's
	var wg sync.WaitGroup
	wg.Go(func() { e.must(f.Rename(e.Context(), from, to)) })
	e.sleep(time.Second)
	e.c.Fail("rename", nil)
	wg.Wait()
}

// When a session's slot moves to where the client has a session, one of the two is ended: not
// before operations in it that are under way have their results.
func TestSessionIsRetiredUnderWay(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		ctx := e.Context()
		e.must(e.files.Mkdir(ctx, "/a"))
		e.must(e.files.Mkdir(ctx, "/b"))
		e.must(e.files.Mkdir(ctx, "/b/b")) // in a session at the other shard
		if n := e.c.Sessions(); n != 2 {
			e.Fatalf("%d sessions", n)
		}
		e.c.LoseAnswers("make", 1000)
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := e.files.Mkdir(ctx, "/b/c"); err != nil {
				e.Errorf("an operation under way while its session is retired: %v", err)
			}
		})
		e.sleep(100 * time.Millisecond)
		e.c.MoveSlots(all, 1)
		relearn(e, e.files, "/a", "/d")
		e.c.LoseAnswers("make", 0)
		wg.Wait()
		e.sleep(time.Second)
		if n := e.c.Sessions(); n != 1 {
			e.Errorf("%d sessions are left at one shard", n)
		}
	})
}

// A session that comes to a shard while the client opens one there is not forgotten.
func TestSessionComesWhileOneIsOpened(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		ctx := e.Context()
		e.must(e.files.Mkdir(ctx, "/b"))
		e.must(e.files.Mkdir(ctx, "/b/x"))
		before := e.c.Sessions()
		other := e.c.Client(client.Options{})
		e.must(other.Mkdir(ctx, "/b/y"))
		e.c.Fail("session", quarry.Errorf("session", quarry.Unavailable, "", "cut off"))
		var wg sync.WaitGroup
		wg.Go(func() { e.must(other.Mkdir(ctx, "/c")) })
		e.sleep(100 * time.Millisecond)
		e.c.MoveSlots(all, 1)
		relearn(e, other, "/b/x", "/b/z")
		e.c.Fail("session", nil)
		wg.Wait()
		e.sleep(time.Second)
		e.must(other.Close())
		if n := e.c.Sessions(); n != before {
			e.Errorf("%d sessions are left of a client that is closed", n-before)
		}
	})
}

// held answers requests for a session late.
type held struct {
	quarry.Master
	e     *env
	late  time.Duration // before the answer, when the session is there; 0: never
	count atomic.Int64
}

func (h *held) Session(ctx context.Context, req *quarry.SessionRequest) (*quarry.SessionReply, error) {
	reply, err := h.Master.Session(ctx, req)
	if req.Session != 0 || err != nil {
		return reply, err
	}
	h.count.Add(1)
	if h.late == 0 {
		<-ctx.Done()
	} else if h.e.c.Clock().Sleep(ctx, h.late) == nil {
		return reply, nil
	}
	return nil, quarry.Errorf("session", quarry.Unavailable, "", "%w", context.Cause(ctx))
}

func (e *env) withHeld(late time.Duration) (*held, *client.FS) {
	h := &held{Master: e.c.Masters(), e: e, late: late}
	return h, client.New(h, e.c.ChunkServer, client.Options{Clock: e.c.Clock()})
}

// A session that is being opened when the client is closed is ended at its master, whether or not
// what needs it ends with the client.
func TestSessionOpenedWhileClosing(t *testing.T) {
	for name, use := range map[string]func(*env, *client.FS) error{
		"mkdir": func(e *env, f *client.FS) error { return f.Mkdir(e.Context(), "/a") },
		"put": func(e *env, f *client.FS) error {
			_, err := f.Put(e.Context(), "/f", strings.NewReader(strings.Repeat("x", 1<<20)), client.PutOptions{})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, small, client.Options{}, func(e *env) {
				h, files := e.withHeld(500 * time.Millisecond)
				done := make(chan error)
				go func() { done <- use(e, files) }()
				for h.count.Load() == 0 {
					e.sleep(time.Millisecond)
				}
				e.must(files.Close())
				if err := <-done; err == nil {
					e.Error("it succeeded in a client that is closed")
				}
				if n := e.c.Sessions(); n != 0 {
					e.Errorf("%d sessions are left at the masters", n)
				}
			})
		})
	}
}

// A session whose caller does not wait any longer is there for the next one.
func TestSessionWhoseCallerIsGone(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		h, files := e.withHeld(500 * time.Millisecond)
		ctx, cancel := context.WithTimeout(e.Context(), 100*time.Millisecond)
		defer cancel()
		e.want(files.Mkdir(ctx, "/a"), context.DeadlineExceeded)
		e.sleep(time.Second)
		e.must(files.Mkdir(e.Context(), "/a"))
		if n := h.count.Load(); n != 1 {
			e.Errorf("%d sessions were opened, want 1", n)
		}
		e.must(files.Close())
		if n := e.c.Sessions(); n != 0 {
			e.Errorf("%d sessions are left at the masters", n)
		}
	})
}

// Close does not wait for masters that are silent.
func TestCloseWhileMastersAreSilent(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		h, files := e.withHeld(0)
		done := make(chan error)
		go func() { done <- files.Mkdir(e.Context(), "/a") }()
		for h.count.Load() == 0 {
			e.sleep(time.Millisecond)
		}
		start := e.c.Clock().Now()
		e.must(files.Close())
		if d := e.c.Clock().Now().Sub(start); d > 5*time.Second {
			e.Errorf("Close took %v", d)
		}
		e.want(<-done, quarry.Unavailable)
	})
}
