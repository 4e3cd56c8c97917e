package master

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/meta"
)

// txAt is the nth transaction that the shard of a slot coordinates.
func txAt(slot quarry.Slot, n int) meta.TxID {
	return meta.TxID(quarry.MakeInode(slot, uint64(n)))
}

// intentsLeft is what intentSweep works on, without shards: slot s belongs to shard s.
type intentsLeft struct {
	mu   sync.Mutex
	list []meta.Intent // by transaction
	bad  map[meta.TxID]bool
	away quarry.Slot // its shard does not answer
}

func (l *intentsLeft) page(from []byte) (list []meta.Intent, next []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := 0
	if from != nil {
		var last meta.TxID
		_, _ = fmt.Sscan(string(from), &last)
		i = len(l.list)
		if j := slices.IndexFunc(l.list, func(in meta.Intent) bool { return in.Tx > last }); j >= 0 {
			i = j
		}
	}
	list = slices.Clone(l.list[i:min(i+sweepMax, len(l.list))])
	if len(list) == sweepMax {
		next = fmt.Append(nil, uint64(list[sweepMax-1].Tx))
	}
	return list, next
}

func (l *intentsLeft) settle(ctx context.Context, in meta.Intent) error {
	if in.Tx.Slot() == l.away || l.bad[in.Tx] {
		<-ctx.Done()
		return ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = slices.DeleteFunc(l.list, func(o meta.Intent) bool { return o == in })
	return nil
}

func (l *intentsLeft) sweep() *intentSweep {
	return &intentSweep{
		clock: clock.Simulated(), logger: slog.New(slog.DiscardHandler), page: l.page, settle: l.settle,
		owner: func(s quarry.Slot) quarry.ShardID { return quarry.ShardID(s) },
	}
}

// Intents of a shard that is away, and ones that nobody can settle, are the lowest: all others are
// settled, page by page, and no round takes longer than a shard has.
func TestIntentsDoNotWaitForAShardThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &intentsLeft{away: 1, bad: map[meta.TxID]bool{}}
		for i := range sweepMax + 500 {
			l.list = append(l.list, meta.Intent{Tx: txAt(1, i+1)})
		}
		for slot := quarry.Slot(2); slot < 5; slot++ {
			for i := range 400 {
				l.list = append(l.list, meta.Intent{Tx: txAt(slot, i+1)})
			}
			l.bad[txAt(slot, 1)], l.bad[txAt(slot, 7)] = true, true
		}
		s := l.sweep()
		settled := func() bool {
			return !slices.ContainsFunc(l.list, func(in meta.Intent) bool { return in.Tx.Slot() != 1 && !l.bad[in.Tx] })
		}
		rounds := 0
		for ; !settled() && rounds < 12; rounds++ {
			begun := time.Now()
			s.round(t.Context())
			if d := time.Since(begun); d > sweepTime {
				t.Errorf("a round took %v", d)
			}
			if rounds == 0 && len(l.list) != sweepMax+500+3*400 {
				t.Error("an intent was settled that was seen once")
			}
		}
		if !settled() {
			t.Errorf("after %d rounds %d intents are left", rounds, len(l.list))
		}
		l.away, l.bad = 0, nil
		for range 4 {
			s.round(t.Context())
		}
		if len(l.list) != 0 {
			t.Errorf("%d intents are left when all answer", len(l.list))
		}
	})
}

// leaveIntents leaves intents of transactions that nobody knows in the root directory.
func (c *caller) leaveIntents(n int) {
	c.t.Helper()
	sh := c.leader(1).group(1)
	for i := range n {
		_, err := sh.propose(c.t.Context(), quarry.Op{}, &meta.Prepare{Tx: txAt(farSlot, 1<<20+i), Part: meta.Part{
			Kind: meta.PartLink, Inode: quarry.RootInode, Name: fmt.Sprint("late", i), Target: quarry.MakeInode(farSlot, 77), FileKind: quarry.KindFile,
		}})
		c.check("leave an intent", err, 0)
	}
}

// A leader that waits for the coordinator of an intent carries its own transactions out.
func TestTransactionsDoNotWaitForIntents(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, cluster *testCluster) {
		c := cluster.caller()
		far, err := c.mkdir(quarry.RootInode, "far", farSlot)
		c.check("make far", err, 0)
		file, err := c.touch(quarry.RootInode, "f")
		c.check("make a file", err, 0)
		c.clean()
		var waiting atomic.Bool
		f := func(at string) {
			if at == "swept" {
				waiting.Store(true)
				c.sleep(30 * time.Second)
			}
		}
		for _, n := range c.nodes {
			n.failpoint.Store(&f)
		}
		c.leaveIntents(1)
		c.until("no intent is looked at", waiting.Load)
		sh := c.leader(1).group(1)
		op := quarry.Op{Session: c.session(1), Sequence: 1, Oldest: 1}
		result, err := sh.propose(t.Context(), op, &meta.Rename{Parent: quarry.RootInode, Name: "f", ToParent: far, ToName: "f"})
		if err != nil || result.Tx == 0 {
			t.Fatalf("a rename across shards: %+v, %v", result, err)
		}
		c.sleep(3 * sweepEvery)
		_ = sh.local(func(v meta.View) error {
			if n := meta.Totals(v).Transactions; n != 0 {
				t.Errorf("%d transactions lie there", n)
			}
			return nil
		})
		for _, n := range c.nodes {
			n.failpoint.Store(nil)
		}
		c.sleep(30 * time.Second)
		if c.find(quarry.RootInode, "f") != file {
			t.Error("a rename that nobody carried out has moved the file")
		}
		c.clean()
	})
}

// A reader asks about all transactions whose intents it meets at the same time, a bounded number of them.
func TestReadersAskTogether(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, cluster *testCluster) {
		c := cluster.caller()
		_, err := c.touch(quarry.RootInode, "f")
		c.check("make a file", err, 0)
		c.leader(1)
		var asked, now, most atomic.Int64
		const silence = 50 * time.Millisecond
		f := func(at string) {
			if at == "outcome" {
				asked.Add(1)
				n := now.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				c.sleep(silence)
				now.Add(-1)
			}
		}
		const met = 2 * outcomesMax
		c.leaveIntents(met)
		for _, n := range c.nodes {
			n.failpoint.Store(&f)
		}
		begun := time.Now()
		list, err := c.leader(1).List(t.Context(), &quarry.ListRequest{Dir: quarry.RootInode, Max: 100})
		if err != nil || len(list.Entries) != 1 {
			t.Errorf("%+v, %v", list, err)
		}
		if d := time.Since(begun); d < silence || d > 4*silence {
			t.Errorf("it took %v", d)
		}
		if asked.Load() != met || most.Load() > outcomesMax {
			t.Errorf("%d questions, %d at the same time", asked.Load(), most.Load())
		}
		for _, n := range c.nodes {
			n.failpoint.Store(nil)
		}
		c.clean()
	})
}
