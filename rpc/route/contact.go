package route

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/quarryfs/quarry"
)

// refusedMax is how long Contact tries where nobody listens, unless it is told.
const refusedMax = 10 * time.Second

// Contact waits for the first answer of any master, and tells which cluster it is. It fails with
// Unavailable when none has come within the limit. If that is 0 it tries for as long as any request is
// tried, but for 10 s only if connections are refused: then an address is wrong, or the masters do not
// run. A master that says nothing may just be busy.
func (m *Masters) Contact(ctx context.Context, limit time.Duration) (quarry.ClusterID, error) {
	clk, told := m.opts.Clock, limit > 0
	if !told {
		limit = m.opts.Patience
	}
	try, cancel := clk.WithTimeout(ctx, limit)
	defer cancel()
	a := attempt{target: target{any: true}}
	began := clk.Now()
	for wait := refreshMax; ; wait = min(2*wait, limit) { // as in learn
		err := m.refreshWithin(try, wait)
		if a.last == nil || try.Err() == nil { // the end of the time says less
			a.last = err
		}
		within := limit
		if !told && errors.Is(a.last, syscall.ECONNREFUSED) {
			within = min(limit, refusedMax)
		}
		switch quarry.KindOf(err) {
		case 0:
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.learned.cluster, nil
		case quarry.Unavailable, quarry.Busy, quarry.NotLeader:
		default:
			return quarry.ClusterID{}, err
		}
		if cause := context.Cause(ctx); cause != nil {
			return quarry.ClusterID{}, quarry.Errorf("open", quarry.Unavailable, "", "%w, after: %w", cause, a.last)
		}
		if try.Err() != nil || clk.Now().Sub(began) >= within {
			return quarry.ClusterID{}, quarry.Errorf("open", quarry.Unavailable, "", "no master answered within %v; check the addresses and that the masters run: %w", within, a.last)
		}
		m.wait(try, &a)
	}
}
