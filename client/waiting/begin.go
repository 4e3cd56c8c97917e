package waiting

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/quarryfs/quarry/clock"
)

// Begin derives a context that ends after d if nothing has begun by then; what has may take as long as it likes.
func Begin(ctx context.Context, c clock.Clock, d time.Duration, begun *atomic.Bool) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	alarm, silence := c.WithTimeout(ctx, d)
	stop := context.AfterFunc(alarm, func() {
		if !begun.Load() {
			cancel(fmt.Errorf("nothing has come for %v: %w", d, context.DeadlineExceeded))
		}
	})
	return ctx, func() { stop(); silence(); cancel(nil) }
}
