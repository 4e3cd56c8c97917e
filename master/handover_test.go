package master

import (
	"sync"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// TestHandoverThatFails decides a transaction while the leadership is handed to a node that is
// down: the log takes nothing meanwhile. Who waits is told so at once, and asks again.
func TestHandoverThatFails(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, cluster *testCluster) {
		c := cluster.caller()
		far, err := c.mkdir(quarry.RootInode, "far", farSlot)
		c.check("make far", err, 0)
		file, err := c.touch(quarry.RootInode, "f")
		c.check("make a file", err, 0)
		m := c.leader(1).Master
		var down *testNode
		for _, n := range c.nodes {
			if n.Master != m && n.Master != c.leaderNow(2) {
				down = n
			}
		}
		to := down.Master.node
		down.stop()
		c.sleep(2 * time.Second)
		if !leads(m, 1) {
			t.Fatal("the leader has changed")
		}
		over := make(chan struct{})
		var once sync.Once
		handover := func(at string) {
			if at != "decide" {
				return
			}
			once.Do(func() {
				go func() {
					defer close(over)
					if m.host.TransferLeadership(t.Context(), 1, to) == nil {
						t.Error("a node that is down has taken the leadership")
					}
				}()
				c.sleep(5 * time.Millisecond)
			})
		}
		m.failpoint.Store(&handover)
		op := quarry.Op{Session: c.session(1), Sequence: 1, Oldest: 1}
		move := func(patience time.Duration) error {
			ctx, cancel := clock.Simulated().WithTimeout(t.Context(), patience)
			defer cancel()
			_, err := m.Rename(ctx, &quarry.RenameRequest{Op: op, Parent: quarry.RootInode, Name: "f", ToParent: far, ToName: "f"})
			return err
		}
		begun := time.Now()
		err = move(30 * time.Second)
		if d := time.Since(begun); d > time.Second {
			t.Errorf("the request was answered after %v: %v", d, err)
		}
		<-over
		m.failpoint.Store(nil)
		for range 100 {
			if err = move(time.Second); err == nil {
				break
			}
			c.sleep(100 * time.Millisecond)
		}
		c.check("move it after all", err, 0)
		if got := c.find(far, "f"); got != file {
			t.Errorf("the file is %v, want %v", got, file)
		}
		down.start()
		c.clean()
	})
}
