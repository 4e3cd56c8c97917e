package sim

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry/rpc"
)

// Requests that come twice are served twice and answered once; messages are lost and come
// twice; the connection lives on.
func TestFramesAreMeddledWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWorld(3)
		defer w.Close()
		n := newNetwork(w, NewLog(w, nil))
		a, b := newHost(n, "a", 1), newHost(n, "b", 2)
		call, message := rpc.RawOp{Op: rpc.OpRaw, Name: "call", BodyMax: 9, PayloadMax: 99}, rpc.RawOp{Op: rpc.OpRaw + 1, Name: "message", BodyMax: 9}
		identity := func() rpc.Identity { return rpc.Identity{Role: rpc.RoleMaster} }
		server := rpc.NewServer(rpc.ServerConfig{Clock: b.clock, Identity: identity})
		calls, messages := 0, map[byte]int{}
		server.HandleRaw(call, func(_ context.Context, req *rpc.Raw) (*rpc.Raw, error) {
			calls++
			return &rpc.Raw{Body: req.Body, Payload: []byte("all right")}, nil
		})
		server.HandleMessages(message, func(_ context.Context, m *rpc.Raw) { messages[m.Body[0]]++ })
		l, err := n.of(b, &process{host: b}).Listen("b:1")
		if err != nil {
			t.Fatal(err)
		}
		go server.Serve(l)
		client := rpc.NewClient(rpc.ClientConfig{Network: n.of(a, &process{host: a}), Clock: a.clock, Identity: identity})
		n.SetAll(Link{Delay: time.Millisecond, Twice: 0.3, Drop: 0.2, Late: 0.2})
		const count = 100
		for i := range count {
			ctx, cancel := a.clock.WithTimeout(context.Background(), time.Minute)
			reply, err := client.CallRaw(ctx, "b:1", rpc.Route{}, call, &rpc.Raw{Body: []byte{byte(i)}, Payload: []byte("do it")})
			if err != nil || reply.Body[0] != byte(i) || string(reply.Payload) != "all right" {
				t.Fatalf("call %d: %v, %v", i, reply, err)
			}
			if err := client.Send(ctx, "b:1", rpc.Route{Lane: rpc.LaneMessages}, message, &rpc.Raw{Body: []byte{byte(i)}}); err != nil {
				t.Fatalf("message %d: %v", i, err)
			}
			cancel()
			w.Sleep(5 * time.Millisecond)
		}
		twice := 0
		for _, k := range messages {
			if k > 1 {
				twice++
			}
		}
		if calls < count+count/10 || len(messages) > count-count/20 || twice < count/20 {
			t.Errorf("of %d each, %d calls were served; %d messages came, %d of them twice", count, calls, len(messages), twice)
		}
		client.Close()
		server.Close()
	})
}
