package master

import (
	"log/slog"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// A chunk server's clock runs at another rate, and its heartbeats and their answers take up
// to 100 ms each. At 0.4 % it keeps its lease, at 1 % it loses it within two minutes.
func TestDriftingServerGetsNoLease(t *testing.T) {
	for _, c := range []struct {
		rate  float64
		lease bool
	}{{1, true}, {1.004, true}, {0.996, true}, {1.01, false}, {0.99, false}} {
		synctest.Test(t, func(t *testing.T) {
			base := clock.Simulated()
			m := &Master{
				cfg:    Config{Clock: base, Logger: slog.New(slog.DiscardHandler)},
				pulses: map[quarry.ServerID]pulse{},
			}
			server := clock.NewSkewed(base, time.Hour, c.rate)
			r := rand.New(rand.NewPCG(1, 1))
			travel := func() { _ = base.Sleep(t.Context(), time.Duration(r.Int64N(int64(100*time.Millisecond)))) }
			req := quarry.HeartbeatRequest{Server: 1, Incarnation: 5}
			lease := true
			for start := base.Now(); base.Now().Sub(start) < 2*time.Minute; {
				req.Nonce++
				req.Sent = int64(server.Now())
				travel()
				sent := req
				lease = m.notePulse(&sent)
				if !lease && c.lease {
					t.Fatalf("rate %v: no lease after %v", c.rate, base.Now().Sub(start))
				}
				m.noteReply(&sent)
				travel()
				req.Answered, req.Received = req.Nonce, int64(server.Now())
				_ = server.Sleep(t.Context(), 300*time.Millisecond)
			}
			if lease != c.lease {
				t.Fatalf("rate %v: lease %v, %d ppm are certain", c.rate, lease, m.pulses[1].drift.PPM())
			}
			// Another start of the server is measured anew.
			req.Incarnation, req.Nonce, req.Answered = 6, 1, 0
			if !m.notePulse(&req) || m.pulses[1].drift.PPM() != 0 {
				t.Fatal("the drift of an earlier incarnation counts")
			}
		})
	}
}
