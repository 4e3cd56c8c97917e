package sim

import (
	"context"
	"time"

	"github.com/quarryfs/quarry"
)

// fillChunks has one file's chunk after the other rolled as if it were full, for which the workload
// writes too little. That is what chunks are made ahead for.
func (n *nemesis) fillChunks(d time.Duration) func() {
	file, last, used := n.c.watch.usedFile(n.r.IntN(probedMax))
	if !used {
		return nil
	}
	pace := 110 + n.r.IntN(1500) // ms from one roll to the next
	n.tell("chunks of file %v are rolled every %d ms for %v", file, pace, d)
	over := make(chan struct{})
	n.healing.Go(func() {
		defer close(over)
		req := &quarry.RollRequest{File: file, Last: last}
		for end := n.c.admin.true.Now().Add(d); n.c.admin.true.Now() < end && n.wait(time.Duration(pace)*time.Millisecond); {
			ctx, cancel := n.c.admin.clock.WithTimeout(context.Background(), 3*time.Second)
			reply, err := n.c.operator.Roll(ctx, req)
			cancel()
			if err == nil {
				req.Last, req.Version = reply.Chunk.Handle, reply.Chunk.Version
			}
		}
	})
	return func() { <-over }
}

// usedFile returns a file that was appended to lately, and the chunk of it that was probed; false
// if there is none.
func (o *observer) usedFile(which int) (file quarry.Inode, last quarry.Handle, used bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.probed) == 0 {
		return 0, 0, false
	}
	last = o.probed[which%len(o.probed)]
	return o.chunk(last).file, last, true
}
