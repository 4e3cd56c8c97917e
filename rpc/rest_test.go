package rpc

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// While no request is under way a server sends a sign of life every fifth interval, and gives up a peer that is
// silent for three times as long. While it serves a request both are as with a peer that never rests.
func TestRest(t *testing.T) {
	for name, own := range map[string]time.Duration{"one interval": 2 * time.Second, "looks more often": 300 * time.Millisecond} {
		const interval, rest = 2 * time.Second, restIntervals * 2 * time.Second
		begin := func(t *testing.T) (e *env, conn Conn, r *frameReader, release chan struct{}) {
			e = newEnvOn(t, NewMemory(), "server:0", func(c *ServerConfig) { c.KeepAlive = own }, nil)
			release = make(chan struct{})
			e.server.HandleRaw(rawTestOp, func(context.Context, *Raw) (*Raw, error) {
				<-release
				return &Raw{}, nil
			})
			e.serve()
			conn, r = dialTold(t, e, interval, true)
			return e, conn, r, release
		}
		request := appendRaw(nil, head{version: 1, kind: kindRequest, op: rawTestOp.Op, id: 1}, nil)
		t.Run(name+", signs", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, conn, r, release := begin(t)
				stop := make(chan struct{})
				go func() { // the peer lives
					for clock.Simulated().Sleep(t.Context(), interval) == nil {
						conn.Write(appendRaw(nil, head{version: 1, kind: kindKeepAlive}, nil))
					}
					close(stop)
				}()
				signs := func(d time.Duration) (n int) {
					for end := time.Now().Add(d); ; n++ {
						h, _ := nextFrame(t, r)
						if h.kind != kindKeepAlive || time.Now().After(end) {
							return n
						}
					}
				}
				if n := signs(20 * rest); n < 20 || n > 23 {
					t.Errorf("%d signs of life in the time of 20", n)
				}
				conn.Write(request)
				if n := signs(20 * interval); n < 19 || n > 23 {
					t.Errorf("%d signs of life in the time of 20, while a request is served", n)
				}
				close(release)
				signs(rest) // the answer
				if n := signs(20 * rest); n < 19 || n > 23 {
					t.Errorf("%d signs of life in the time of 20, when it is answered", n)
				}
				e.close()
			})
		})
		for what, limit := range map[string]time.Duration{"resting": rest, "served": interval} {
			t.Run(name+", silent while "+what, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e, conn, _, release := begin(t)
					sleep(t, rest-interval/2) // it may be silent for so long
					if what == "served" {
						conn.Write(request)
					}
					began := time.Now()
					if what == "resting" {
						began = began.Add(interval/2 - rest)
					}
					io.Copy(io.Discard, conn)
					if took := time.Since(began); took < silentIntervals*limit || took > silentIntervals*limit+2*own {
						t.Errorf("it was given up after %v", took)
					}
					close(release)
					e.close()
				})
			})
		}
	}
}

// A server that is gone without a word while nobody waited is found out by the calls that wait then, within four
// intervals from the first: by one that waits for long, and by many of which each is soon given up.
func TestRestingServerIsGone(t *testing.T) {
	for name, patience := range map[string]time.Duration{"waits": time.Hour, "give up": time.Second, "give up before each look": time.Second / 2} {
		for _, lane := range []Lane{LaneControl, LaneAppend, LaneBulk} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e, f := flaky(t, 1, nil)
					e.server.HandleRaw(rawTestOp, func(context.Context, *Raw) (*Raw, error) { return &Raw{}, nil })
					e.serve()
					call := func(patience time.Duration) error {
						_, err := e.client.CallRaw(within(t, patience), e.address, Route{Lane: lane}, rawTestOp, &Raw{})
						return err
					}
					if err := call(time.Second); err != nil {
						t.Fatal(err)
					}
					sleep(t, time.Minute) // both live, and neither has given up the other
					if err := call(time.Second); err != nil || e.server.made != 1 {
						t.Fatalf("after a minute: %v, %d connections", err, e.server.made)
					}
					sleep(t, 7*time.Second)
					f.Freeze("client", "server")
					began := time.Now()
					for err := call(patience); err != nil; err = call(patience) {
						if !errors.Is(err, quarry.Unavailable) || time.Since(began) > (silentIntervals+1)*defaultKeepAlive {
							t.Errorf("%v after it was gone: %v", time.Since(began), err)
							break
						}
						if patience < time.Second { // none is under way when the client looks after its connections
							sleep(t, defaultKeepAlive-patience)
						}
					}
					if took := time.Since(began); took < time.Second || took > (silentIntervals+1)*defaultKeepAlive+time.Second {
						t.Errorf("it was found out after %v", took)
					}
					e.closeWith(f)
				})
			})
		}
	}
}
