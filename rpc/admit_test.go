package rpc

import (
	"bytes"
	"errors"
	"log/slog"
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

// Clients take no places of masters and chunk servers, nor these any of clients. Who is refused
// is told why, and may come when another one has left.
func TestConnectionsAreBounded(t *testing.T) {
	for name, network := range map[string]Network{"memory": NewMemory(), "TCP": TCP} {
		t.Run(name, func(t *testing.T) {
			e := newEnvOn(t, network, "127.0.0.1:0", func(c *ServerConfig) { c.ConnectionsMax = 3 }, nil)
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
			e.server.mu.Lock()
			for e.server.clients == 3 || len(e.server.conns) > 5 {
				e.server.changed.Wait()
			}
			e.server.mu.Unlock()
			if _, err := come(t, e, RoleClient); err != nil {
				t.Errorf("when one has left: %v", err)
			}
		})
	}
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
