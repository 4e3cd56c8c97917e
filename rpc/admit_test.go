package rpc

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// come connects as a process of a role.
func come(t *testing.T, e *env, role Role) (Conn, error) {
	t.Helper()
	conn, err := e.network.Dial(t.Context(), e.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	p := party{identity: Identity{Cluster: testCluster, Role: role}}
	_, err = p.greet(conn, testReader(conn), LaneControl)
	return conn, err
}

// unhurried returns a clock so slow that nobody is given up, however busy the machine is: the
// tests that use it are about counts, not about time.
func unhurried() clock.Clock {
	return clock.NewSkewed(clock.NewSkewed(clock.System(), 0, 0.1), 0, 0.1)
}

// settled waits until the server has at most n connections, those in their handshake included.
func (e *env) settled(n int) {
	e.server.mu.Lock()
	defer e.server.mu.Unlock()
	for len(e.server.conns) > n {
		e.server.changed.Wait()
	}
}

// Clients take no places of masters and chunk servers, nor these any of clients. Who is refused
// is told why, and may come when another one has left.
func TestConnectionsAreBounded(t *testing.T) {
	for name, network := range map[string]Network{"memory": NewMemory(), "TCP": TCP} {
		t.Run(name, func(t *testing.T) {
			e := newEnvOn(t, network, "127.0.0.1:0", func(c *ServerConfig) { c.ConnectionsMax, c.Clock = 3, unhurried() }, nil)
			e.serve()
			refused := func(role Role, text string) {
				t.Helper()
				if _, err := come(t, e, role); !errors.Is(err, quarry.Unavailable) || !strings.Contains(err.Error(), text) {
					t.Errorf("one %s too many: %v", role, err)
				}
			}
			var first Conn
			for i, role := range []Role{RoleClient, RoleClient, RoleClient, RoleMaster, RoleChunkServer, RoleMaster} {
				conn, err := come(t, e, role)
				if err != nil {
					t.Fatalf("a %s: %v", role, err)
				}
				if i == 0 {
					first = conn
				}
				if i == 2 {
					for range 20 {
						refused(RoleClient, "3 connections of clients already")
					}
				}
			}
			refused(RoleMaster, "3 connections of masters and chunk servers already")
			first.Close()
			e.settled(5)
			if _, err := come(t, e, RoleClient); err != nil {
				t.Errorf("when one has left: %v", err)
			}
		})
	}
}

// A refusal arrives over TCP, and then the orderly end of the connection: a reset, which follows
// when something that was sent is never read, may overtake the refusal, and tells who sees it that
// the process is gone.
func TestRefusalArrives(t *testing.T) {
	for name, change := range map[string]func(*ServerConfig){
		"too many": func(c *ServerConfig) { c.ConnectionsMax = -1 },
		"checked": func(c *ServerConfig) {
			c.Check = func(Peer) error { return quarry.Errorf("check", quarry.Permission, "", "not you") }
		},
		"another cluster": func(c *ServerConfig) { c.Identity = func() Identity { return Identity{Cluster: quarry.ClusterID{9}} } },
		"a key is needed": func(c *ServerConfig) { c.Key = testKey },
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnvOn(t, TCP, "127.0.0.1:0", func(c *ServerConfig) { c.Clock = unhurried(); change(c) }, nil)
			e.serve()
			conn, err := e.network.Dial(t.Context(), e.address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			r := testReader(conn)
			p := party{identity: clientIdentity()}
			said, err := p.say(conn, &hello{VersionMin: VersionMin, VersionMax: VersionMax, Identity: clientIdentity()}, nil)
			if err != nil || len(said) == 0 {
				t.Fatal(err)
			}
			_, _, _, err = hear(r)
			if err == nil { // it is refused later
				b, _ := appendFrame(nil, head{kind: kindProof}, &proof{}, proofFields)
				if _, err = conn.Write(b); err != nil {
					t.Fatal(err)
				}
				e.settled(0)
				_, err = take(r, kindWelcome)
			}
			var refusal *quarry.Error
			if !errors.As(err, &refusal) {
				t.Errorf("instead of a refusal: %v", err)
			}
			if n, err := conn.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("after the refusal: %d bytes, %v", n, err)
			}
			if _, err := conn.Write([]byte{1}); err != nil { // the first one after an orderly end goes out
				t.Errorf("the connection was reset: %v", err)
			}
		})
	}
}

// However many are refused, one line a second tells of them, with their number.
func TestRefusalsAreLoggedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		e := newEnvOn(t, NewMemory(), "server:0", func(c *ServerConfig) {
			c.ConnectionsMax, c.KeepAlive = -1, 250*time.Millisecond
			c.Logger = slog.New(slog.NewTextHandler(&log, nil))
		}, nil)
		e.serve()
		for range 4 {
			for range 20 {
				if _, err := come(t, e, RoleClient); err == nil {
					t.Error("a client is not refused")
				}
			}
			synctest.Wait()
			sleep(t, refusalsEvery*2/5)
		}
		sleep(t, time.Minute)
		e.close()
		var counts []string
		for line := range strings.Lines(log.String()) {
			if _, count, ok := strings.Cut(line, "count="); ok && strings.Contains(line, "connection refused") {
				counts = append(counts, strings.TrimSpace(count))
			}
		}
		if want := []string{"1", "59", "20"}; !slices.Equal(counts, want) {
			t.Errorf("lines are logged for %v refusals, want %v", counts, want)
		}
	})
}

// However many say nothing, others wait for no longer than a handshake may take.
func TestSilentConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		e := newEnvOn(t, NewMemory(), "server:0", func(c *ServerConfig) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) }, nil)
		e.serve()
		for range handshakesMax + 500 {
			go func() {
				if conn, err := e.network.Dial(t.Context(), e.address); err == nil {
					<-t.Context().Done()
					conn.Close()
				}
			}()
		}
		synctest.Wait()
		e.server.mu.Lock()
		if n := len(e.server.conns); n != handshakesMax {
			t.Errorf("%d connections are in their handshake, want %d", n, handshakesMax)
		}
		e.server.mu.Unlock()
		began := clock.Simulated().Now()
		if _, err := come(t, e, RoleMaster); err != nil {
			t.Error(err)
		}
		if took := clock.Simulated().Now().Sub(began); took > handshakeTime {
			t.Errorf("a master had to wait for %v", took)
		}
		sleep(t, time.Minute)
		e.close()
		if n := strings.Count(log.String(), "connection refused"); n < 2 || n > 10 || !strings.Contains(log.String(), "the handshake took more than") {
			t.Errorf("%d lines are logged", n)
		}
	})
}
