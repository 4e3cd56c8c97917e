package rpc

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
)

// A handler of LaneBulk, which the reading goroutine calls, finds its context ended when the
// server is closed, and when its client is gone: nothing is read meanwhile that could tell.
func TestBulkHandlerIsNotWaitedFor(t *testing.T) {
	for name, end := range map[string]func(e *env, client Conn){
		"the server is closed": func(e *env, _ Conn) { e.server.Close() },
		"the client is gone":   func(_ *env, client Conn) { client.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEnv(t)
				ended := make(chan error, 1)
				e.server.HandleRaw(rawTestOp, func(ctx context.Context, _ *Raw) (*Raw, error) {
					select {
					case <-ctx.Done():
						ended <- ctx.Err()
					case <-t.Context().Done():
						ended <- nil
					}
					return &Raw{}, nil
				})
				e.serve()
				conn, _ := dialRaw(t, e, LaneBulk)
				conn.Write(appendRaw(nil, head{version: 1, kind: kindRequest, op: rawTestOp.Op, id: 1}, nil))
				synctest.Wait()
				go end(e, conn)
				sleep(t, 5*defaultKeepAlive)
				select {
				case err := <-ended:
					if !errors.Is(err, context.Canceled) {
						t.Errorf("its context ended with %v", err)
					}
				default:
					t.Error("the handler waits still")
				}
				if n := len(e.server.connected()); n != 0 {
					t.Error("the connection is still there")
				}
			})
		})
	}
}

func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t)
		release := make(chan struct{})
		ServeChunkServer(e.server, &fakeServer{
			end: func(context.Context, *quarry.EndRequest) (*quarry.EndReply, error) {
				<-release
				return &quarry.EndReply{Commit: 5}, nil
			},
			read: func(_ context.Context, q *quarry.ReadRequest) (*quarry.ReadReply, error) {
				return &quarry.ReadReply{Data: make([]byte, q.Length)}, nil
			},
		})
		e.serve()
		server := e.client.ChunkServer(e.address)
		if _, err := server.Read(t.Context(), &quarry.ReadRequest{Length: 1 << 20}); err != nil {
			t.Fatal(err) // leaves an idle connection behind
		}
		done := make(chan error, 1)
		go func() {
			_, err := server.End(t.Context(), &quarry.EndRequest{})
			done <- err
		}()
		synctest.Wait()
		stopped := make(chan struct{})
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := e.server.Shutdown(ctx); err != nil {
				t.Error(err)
			}
			close(stopped)
		}()
		synctest.Wait()
		// A request after the news is not sent to the server that stops.
		if _, err := server.End(t.Context(), &quarry.EndRequest{}); !errors.Is(err, quarry.Unavailable) {
			t.Errorf("a request to a server that stops: %v", err)
		}
		select {
		case <-stopped:
			t.Error("Shutdown did not wait for the request in service")
		default:
		}
		close(release)
		if err := <-done; err != nil {
			t.Errorf("the request in service: %v", err)
		}
		start := time.Now()
		<-stopped
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("the server stopped %v after the last request", took)
		}
		e.close()
	})
}
