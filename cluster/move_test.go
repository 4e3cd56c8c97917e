package cluster_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/cluster"
)

// dribble gives its bytes a part at a time, so that a Put lasts.
type dribble struct{ r io.Reader }

func (d dribble) Read(b []byte) (int, error) {
	<-time.After(5 * time.Millisecond)
	return d.r.Read(b[:min(len(b), 256<<10)])
}

// busy uses a cluster in all ways, until stop is closed, and then checks that everything is there
// once.
type busy struct {
	t    *testing.T
	f    *client.FS
	ctx  context.Context
	stop chan struct{}
	wg   sync.WaitGroup
	mu   sync.Mutex
	done map[string]int // what each worker has done
	most time.Duration  // the longest that one operation took
}

func (b *busy) over() bool {
	select {
	case <-b.stop:
		return true
	default:
		return b.ctx.Err() != nil
	}
}

// worker repeats an operation.
func (b *busy) worker(name string, do func(i int) error) {
	b.wg.Go(func() {
		for i := 0; !b.over(); i++ {
			began := time.Now()
			if err := do(i); err != nil {
				b.t.Errorf("%s %d: %v", name, i, err)
				return
			}
			b.mu.Lock()
			b.done[name] = i + 1
			b.most = max(b.most, time.Since(began))
			b.mu.Unlock()
		}
	})
}

func (b *busy) begin(dir string) {
	b.done = map[string]int{}
	b.stop = make(chan struct{})
	must := func(err error) {
		b.t.Helper()
		if err != nil {
			b.t.Fatal(err)
		}
	}
	must(b.f.Mkdir(b.ctx, dir))
	must(b.f.Mkdir(b.ctx, dir+"-to"))
	w, err := b.f.Create(b.ctx, dir+"/log")
	must(err)
	must(w.Close())
	a, err := b.f.Appender(b.ctx, dir+"/log")
	must(err)
	b.worker("append", func(i int) error {
		_, err := a.Append(b.ctx, fmt.Appendf(nil, "<%d>", i))
		return err
	})
	data := randomBytes(3<<20, 7)
	b.worker("put", func(i int) error {
		_, err := b.f.Put(b.ctx, fmt.Sprintf("%s/p%d", dir, i%3), dribble{bytes.NewReader(data)}, client.PutOptions{})
		return err
	})
	b.worker("rename", func(i int) error {
		from := fmt.Sprintf("%s/d%d", dir, i)
		if err := b.f.Mkdir(b.ctx, from); err != nil {
			return err
		}
		return b.f.Rename(b.ctx, from, fmt.Sprintf("%s-to/d%d", dir, i))
	})
	b.worker("list", func(int) error {
		_, _, err := b.f.List(b.ctx, dir+"-to", "", quarry.ListMax)
		return err
	})
}

func (b *busy) check(dir string) {
	b.t.Helper()
	close(b.stop)
	b.wg.Wait()
	if b.t.Failed() {
		return
	}
	var want []byte
	for i := range b.done["append"] {
		want = fmt.Appendf(want, "<%d>", i)
	}
	if got := readBack(b.ctx, b.t, b.f, dir+"/log"); !bytes.Equal(got, want) {
		b.t.Errorf("%d records were appended, the log has %d bytes, want %d", b.done["append"], len(got), len(want))
	}
	for i := range min(3, b.done["put"]) {
		if got := readBack(b.ctx, b.t, b.f, fmt.Sprintf("%s/p%d", dir, i)); !bytes.Equal(got, randomBytes(3<<20, 7)) {
			b.t.Errorf("file %d has %d bytes, and others than were put", i, len(got))
		}
	}
	list, _, err := b.f.List(b.ctx, dir+"-to", "", quarry.ListMax)
	if err != nil || len(list) != min(b.done["rename"], quarry.ListMax) {
		b.t.Errorf("%d directories were moved, %d are there, %v", b.done["rename"], len(list), err)
	}
	b.t.Logf("%v done, the longest took %v", b.done, b.most)
}

// TestSlotsMove moves slots between shards, and to one that was added, while files are written,
// put, renamed and read.
func TestSlotsMove(t *testing.T) {
	t.Parallel()
	d, f, ctx := dev(t, 3)
	masters := operator(t, d)
	if _, err := masters.MoveSlots(ctx, &quarry.MoveSlotsRequest{Balance: quarry.SwitchOff}); err != nil {
		t.Fatal(err)
	}
	shard, err := cluster.AddShard(ctx, masters, clock.System())
	if err != nil {
		t.Fatal(err)
	}
	b := &busy{t: t, f: f, ctx: ctx}
	b.begin("/a")
	info, err := f.Stat(ctx, "/a")
	if err != nil {
		t.Fatal(err)
	}
	home := info.Attr.Inode.Slot()
	for i, m := range []struct {
		slots quarry.SlotRange
		to    quarry.ShardID
	}{
		{quarry.SlotRange{First: home, Last: home}, shard},
		{quarry.SlotRange{First: 0, Last: quarry.Slots - 1}, 2},
		{quarry.SlotRange{First: 0, Last: 9}, shard},
		{quarry.SlotRange{First: home, Last: home}, 1},
		{quarry.SlotRange{First: 0, Last: quarry.Slots/2 - 1}, 3},
	} {
		reply, err := cluster.MoveSlots(ctx, masters, clock.System(), m.to, []quarry.SlotRange{m.slots}, nil)
		if err != nil {
			t.Fatalf("move %d: %v", i, err)
		}
		for _, ended := range reply {
			t.Logf("move %d of %v from %d to %d: %v, nobody answered for %d µs", ended.Move, ended.Slots, ended.From, ended.To, ended.Step, ended.PauseUS)
		}
	}
	b.check("/a")
	topology, err := masters.Topology(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var owner [quarry.Slots]quarry.ShardID
	for _, s := range topology.Shards {
		for _, r := range s.Slots {
			for slot := int(r.First); slot <= int(r.Last); slot++ {
				if owner[slot] != 0 {
					t.Errorf("slot %d is at shards %d and %d", slot, owner[slot], s.Shard)
				}
				owner[slot] = s.Shard
			}
		}
	}
	for slot, o := range owner {
		if want := map[bool]quarry.ShardID{true: 3, false: 2}[slot < quarry.Slots/2]; o != want && slot != int(home) {
			t.Fatalf("slot %d is at shard %d, want %d", slot, o, want)
		}
	}
}
