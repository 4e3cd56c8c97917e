package chunks

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

// Servers die, restart and are cut off, leaders fail over, requests and answers get lost,
// while writers append. The checks of a world hold throughout; afterwards every chunk gets
// its copies back, and nothing is left that nobody needs. CHUNKS_SEED repeats one run, as far
// as goroutines allow.
func TestChaos(t *testing.T) {
	seeds := []uint64{1, 2, 3, 4}
	if s, err := strconv.ParseUint(os.Getenv("CHUNKS_SEED"), 10, 64); err == nil {
		seeds = []uint64{s}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("CHUNKS_SEED=%d", seed), func(t *testing.T) {
			cfg := Config{TrashAfter: always(20 * time.Second), SessionExpiry: time.Hour}
			inWorldOf(t, 6, cfg, func(w *world) { newChaos(w, seed).run() })
		})
	}
}

type chaos struct {
	*world
	calm atomic.Bool

	mu  sync.Mutex
	rng *rand.Rand
}

func newChaos(w *world, seed uint64) *chaos {
	return &chaos{world: w, rng: rand.New(rand.NewPCG(seed, 0))}
}

func (c *chaos) draw(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rng.IntN(n)
}

func (c *chaos) run() {
	c.net.setFault(func(string, *fakeServer, quarry.ChunkRef) error {
		if c.calm.Load() {
			return nil
		}
		switch c.draw(60) {
		case 0:
			return errSilent
		case 1:
			return errReplyLost
		case 2:
			return quarry.Errorf("call", quarry.Unavailable, "", "the connection broke")
		}
		return nil
	})
	var writers sync.WaitGroup
	var written atomic.Int64
	for i := range 5 {
		file := c.file(fmt.Sprint(i))
		writers.Go(func() { written.Add(c.write(file, quarry.Sequence(10000*(i+1)))) })
	}
	for range 60 {
		c.pass(time.Duration(c.draw(2000)) * time.Millisecond)
		c.disturb()
	}
	c.calm.Store(true)
	for id := range 6 {
		c.revive(c.net.server(quarry.ServerID(id + 1)))
	}
	writers.Wait()
	if n := written.Load(); n < 50 {
		c.t.Errorf("%d records were written in all that time", n)
	}
	why := ""
	for range 180 {
		if why = c.ill(); why == "" {
			return
		}
		c.pass(time.Second)
	}
	c.t.Errorf("three minutes later still: %s", why)
}

// disturb does some harm, or undoes some.
func (c *chaos) disturb() {
	s := c.net.server(quarry.ServerID(1 + c.draw(6)))
	down := 0
	for id := range 6 {
		if c.net.server(quarry.ServerID(id + 1)).isDown() {
			down++
		}
	}
	switch what := c.draw(10); {
	case s.isDown() && what < 7:
		c.revive(s)
	case what < 3 && down < 3:
		s.kill()
	case what < 5 && down < 3:
		s.unplug()
	case what < 6 && !s.isDown():
		s.kill()
		c.restart(s)
	case what < 7:
		c.failover()
	}
}

// revive plugs a server in, or restarts it, which is all that can be done with a dead one.
func (c *chaos) revive(s *fakeServer) {
	switch {
	case !s.isDown():
	case s.isDead() || c.draw(2) == 0:
		c.restart(s)
	default:
		s.plug()
	}
}

// write appends to a file, as a client does that gives up on a chunk at the first error. It
// returns how many records were acknowledged.
func (c *chaos) write(file quarry.Inode, seq quarry.Sequence) (n int64) {
	var tail quarry.Chunk
	for last := tail; !c.calm.Load(); {
		var suspects []quarry.Member
		if c.draw(2) == 0 && len(last.Members) > 1 {
			suspects = last.Members[1:2]
		}
		reply, err := c.tryRoll(file, last, suspects...)
		if err != nil {
			if errors.Is(err, quarry.Corrupt) {
				c.t.Errorf("file %v: %v", file, err)
				return n
			}
			c.pass(100 * time.Millisecond)
			continue
		}
		tail = reply.Chunk
		for range 1 + c.draw(20) {
			seq++
			if err = c.tryAppend(tail, seq, int64(1+c.draw(1000))); err != nil {
				break
			}
			n++
			c.pass(time.Duration(c.draw(200)) * time.Millisecond)
		}
		last = tail
	}
	return n
}

// ill tells what is not as it should be: every sealed chunk has three replicas that hold it
// and serve, and no server has anything that the log does not list.
func (c *chaos) ill() string {
	c.state.mu.Lock()
	n := meta.Totals(c.state.kv)
	c.state.mu.Unlock()
	if n.UnderCopied != 0 || n.Missing != 0 || n.Items != 0 || n.Open > 5 {
		return fmt.Sprintf("%+v", n)
	}
	for id := range 6 {
		s := c.net.server(quarry.ServerID(id + 1))
		for _, r := range s.inventory(0).Replicas {
			rec := c.record(r.Handle)
			switch {
			case rec == nil || rec.Replica(s.id) == nil:
				// What a round left that was given up is found by the next inventory.
				if reply, err := c.lead().Inventory(c.ctx, s.inventory(0)); err == nil {
					s.granted(&quarry.HeartbeatRequest{Incarnation: s.incarnation()}, quarry.Grant{Items: reply.Drop, More: true})
				}
				return fmt.Sprintf("server %d has %+v, which the log does not list", s.id, r)
			case rec.State != quarry.ChunkSealed:
			case rec.Count(meta.ReplicaHolding) != 3 || r.SealVersion != rec.Version || r.Length != rec.Length || !r.Serving:
				return fmt.Sprintf("server %d has %+v, the log %+v", s.id, r, rec)
			}
		}
	}
	return ""
}
