package rpc

import "context"

// bulk is the pool of connections over which replies with payloads come, one at a time each.
type bulk struct {
	idle    []*clientConn // the one used last is used next, so that the others may be closed
	open    int           // connections in use, idle or being made
	waiting []chan struct{}
}

// borrow returns a connection that nobody else uses, and connects or waits if there is none.
func (r *remote) borrow(ctx context.Context) (*clientConn, error) {
	for {
		r.mu.Lock()
		for len(r.bulk.idle) > 0 {
			n := len(r.bulk.idle) - 1
			conn := r.bulk.idle[n]
			r.bulk.idle = r.bulk.idle[:n]
			if conn.usable() {
				r.mu.Unlock()
				return conn, nil
			}
			r.bulk.open--
		}
		if r.bulk.open < r.client.config.BulkConns {
			r.bulk.open++
			r.mu.Unlock()
			conn, err := r.connect(ctx, LaneBulk)
			if err != nil {
				r.mu.Lock()
				r.bulk.open--
				r.wakeBulk()
				r.mu.Unlock()
				if ctx.Err() != nil {
					return nil, ended(ctx, r.address)
				}
				return nil, err
			}
			return conn, nil
		}
		ready := make(chan struct{})
		r.bulk.waiting = append(r.bulk.waiting, ready)
		r.mu.Unlock()
		select {
		case <-ready:
		case <-ctx.Done():
			r.mu.Lock()
			r.stopWaiting(ready)
			r.mu.Unlock()
			return nil, ended(ctx, r.address)
		}
	}
}

// giveBack returns a connection of borrow to the pool.
func (r *remote) giveBack(conn *clientConn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if conn.usable() {
		r.bulk.idle = append(r.bulk.idle, conn)
	} else {
		r.bulk.open--
	}
	r.wakeBulk()
}

// wakeBulk lets the first who waits try again; mu is held.
func (r *remote) wakeBulk() {
	if len(r.bulk.waiting) > 0 {
		close(r.bulk.waiting[0])
		r.bulk.waiting = r.bulk.waiting[1:]
	}
}

// stopWaiting takes ready out of the line, or passes on its turn if that has come; mu is held.
func (r *remote) stopWaiting(ready chan struct{}) {
	for i, w := range r.bulk.waiting {
		if w == ready {
			r.bulk.waiting = append(r.bulk.waiting[:i], r.bulk.waiting[i+1:]...)
			return
		}
	}
	r.wakeBulk()
}
