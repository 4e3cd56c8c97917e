package rpc

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
)

// Who waits on a connection without any other traffic is not given up for as long as both sides
// live, whichever of them gives signs of life more rarely.
func TestIntervalsThatDiffer(t *testing.T) {
	for name, intervals := range map[string][2]time.Duration{
		"patient client": {300 * time.Millisecond, 2 * time.Second},
		"patient server": {2 * time.Second, 300 * time.Millisecond},
		"no multiples":   {700 * time.Millisecond, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEnvOn(t, NewMemory(), "server:0", func(c *ServerConfig) { c.KeepAlive = intervals[0] },
					func(c *ClientConfig) { c.KeepAlive = intervals[1] })
				release := make(chan struct{})
				ServeChunkServer(e.server, &fakeServer{wait: func(ctx context.Context, _ *quarry.WaitRequest) (*quarry.WaitReply, error) {
					select {
					case <-release:
						return &quarry.WaitReply{}, nil
					case <-ctx.Done():
						return nil, ctx.Err()
					}
				}})
				e.serve()
				done := make(chan error, 1)
				go func() {
					_, err := e.client.ChunkServer(e.address).Wait(t.Context(), &quarry.WaitRequest{})
					done <- err
				}()
				sleep(t, 30*time.Second)
				synctest.Wait()
				select {
				case err := <-done:
					t.Errorf("the call ended before it was answered: %v", err)
				default:
					close(release)
					if err := <-done; err != nil {
						t.Error(err)
					}
				}
				if n := e.server.made; n != 1 {
					t.Errorf("%d connections were made", n)
				}
				e.close()
			})
		})
	}
}

// A peer that says that it gives no sign of life for hours is given up all the same.
func TestIntervalBeyondAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t)
		e.serve()
		conn, err := e.network.Dial(t.Context(), e.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		p := party{identity: clientIdentity(), keepAlive: 1000 * time.Hour}
		if _, err := p.greet(conn, testReader(conn), LaneControl); err != nil {
			t.Fatal(err)
		}
		sleep(t, (silentTicks+2)*keepAliveMax)
		if n := len(e.server.connected()); n != 0 {
			t.Error("the connection is still there")
		}
		e.close()
	})
}
