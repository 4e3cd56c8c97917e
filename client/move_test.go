package client_test

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/client/clienttest"
)

// slow gives its bytes a part at a time, so that a Put lasts.
type slow struct {
	e *env
	r io.Reader
}

func (s *slow) Read(b []byte) (int, error) {
	s.e.sleep(50 * time.Millisecond)
	return s.r.Read(b[:min(len(b), 1<<20)])
}

// Whoever appends, puts, and changes names goes on while slots move to and fro between shards:
// sessions go where their slots go, and what they own may be elsewhere.
func TestSlotsMoveUnderClients(t *testing.T) {
	run(t, clienttest.Config{}, client.Options{}, func(e *env) {
		ctx := e.Context()
		e.must(e.files.Mkdir(ctx, "/a"))
		e.must(e.files.Mkdir(ctx, "/b"))
		e.create("/a/log")
		attr, err := e.files.Stat(ctx, "/a")
		e.must(err)
		home := attr.Attr.Inode.Slot()
		over := make(chan struct{})
		var work sync.WaitGroup
		work.Go(func() { // the directory alone, then what may be the session's slot, then all of it back
			for i := 0; ; i++ {
				select {
				case <-over:
					return
				default:
				}
				e.sleep(170 * time.Millisecond)
				to := quarry.ShardID(1 + i%2)
				switch i % 3 {
				case 0:
					e.c.MoveSlots(quarry.SlotRange{First: home, Last: home}, to)
				case 1:
					e.c.MoveSlots(quarry.SlotRange{First: 0, Last: 0}, to)
				case 2:
					e.c.MoveSlots(quarry.SlotRange{First: 0, Last: quarry.Slots/2 - 1}, to)
				}
			}
		})
		var users sync.WaitGroup
		users.Go(func() {
			for i := range 60 {
				name := fmt.Sprintf("/a/d%d", i)
				e.must(e.files.Mkdir(ctx, name))
				e.must(e.files.Rename(ctx, name, name+"x"))
				e.sleep(30 * time.Millisecond)
			}
		})
		data := bytes.Repeat([]byte("0123456789abcdef"), 150<<16)
		users.Go(func() {
			_, err := e.files.Put(ctx, "/a/put", &slow{e, bytes.NewReader(data)}, client.PutOptions{})
			if err != nil {
				e.Errorf("put: %v", err)
			}
		})
		e.appenders("/a/log", 4, 100, func() { e.sleep(time.Second) })
		users.Wait()
		close(over)
		work.Wait()
		e.expect("/a/put", data)
		list, _, err := e.files.List(ctx, "/a", "", 1000)
		e.must(err)
		if len(list) != 62 {
			e.Errorf("%d names, want 62", len(list))
		}
	})
}

// The chunks of a put move to another shard before the answer with them has come: others are made,
// and the session that owns the first ones ends with the put, so that they are freed.
func TestAllocatedChunksMoveBeforeTheAnswer(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		ctx := e.Context()
		e.must(e.files.Mkdir(ctx, "/a"))
		attr, err := e.files.Stat(ctx, "/a")
		e.must(err)
		home, to := attr.Attr.Inode.Slot(), quarry.ShardID(1)
		if home < quarry.Slots/2 {
			to = 2
		}
		e.c.LoseAnswers("allocate", 1<<20)
		var work sync.WaitGroup
		work.Go(func() {
			for e.c.Count("allocate") == 0 {
				e.sleep(time.Millisecond)
			}
			e.c.MoveSlots(quarry.SlotRange{First: home, Last: home}, to)
			e.c.LoseAnswers("allocate", 0)
		})
		data := bytes.Repeat([]byte("0123456789abcdef"), 20<<10)
		e.put("/a/f", data)
		work.Wait()
		e.expect("/a/f", data)
		e.sleep(time.Second)
		if n := e.c.Unlinked(); n != 0 {
			e.Errorf("%d chunks are kept that nobody wants", n)
		}
	})
}

// The chunks of a put belong to a session, its name is made in another one because its directory has
// moved, and that one expires: the first one is ended at its master all the same, and so its chunks
// are freed.
func TestPutWhoseOtherSessionExpires(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		ctx := e.Context()
		e.must(e.files.Mkdir(ctx, "/a"))
		attr, err := e.files.Stat(ctx, "/a")
		e.must(err)
		home, to := attr.Attr.Inode.Slot(), quarry.ShardID(1)
		if home < quarry.Slots/2 {
			to = 2
		}
		e.c.Fail("link", quarry.Errorf("link", quarry.WrongShard, "", "the directory is on its way"))
		var work sync.WaitGroup
		work.Go(func() {
			for e.c.Count("link") == 0 {
				e.sleep(time.Millisecond)
			}
			e.c.MoveSlots(quarry.SlotRange{First: home, Last: home}, to)
			e.c.Fail("link", nil)
			for before := e.c.Count("link"); e.c.Count("link") == before; {
				e.sleep(time.Millisecond)
			}
			e.c.Fail("link", quarry.Errorf("link", quarry.SessionExpired, "", "it is not known (any more)"))
		})
		_, err = e.files.Put(ctx, "/a/f", bytes.NewReader(bytes.Repeat([]byte("0123456789abcdef"), 20<<10)), client.PutOptions{})
		work.Wait()
		e.want(err, quarry.Unknown)
		e.sleep(time.Second)
		if n := e.c.Unlinked(); n != 0 {
			e.Errorf("%d chunks are kept that nobody wants", n)
		}
	})
}

// A session that was retired a moment before the client is closed is ended at its master.
func TestSessionRetiredBeforeClose(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		e.c.Fail("link", quarry.Errorf("link", quarry.NoSpace, "", "not now"))
		_, err := e.files.Put(e.Context(), "/f", bytes.NewReader(bytes.Repeat([]byte("0123456789abcdef"), 20<<10)), client.PutOptions{})
		e.want(err, quarry.NoSpace)
		e.must(e.files.Close())
		if n := e.c.Sessions(); n != 0 {
			e.Errorf("%d sessions are left at the masters", n)
		}
	})
}
