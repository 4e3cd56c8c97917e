package rpc_test

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/rpc"
	"github.com/quarryfs/quarry/rpc/rpctest"
)

// anyPort finds free addresses for a network whose addresses are always told to it.
type anyPort struct{ rpc.Network }

var ports atomic.Int32

func (n anyPort) Listen(address string) (rpc.Listener, error) {
	if host, free := strings.CutSuffix(address, ":0"); free {
		address = fmt.Sprintf("%s-%d:%d", host, os.Getpid(), ports.Add(1))
	}
	return n.Network.Listen(address)
}

func TestNetworks(t *testing.T) {
	t.Run("TCP", func(t *testing.T) {
		rpctest.Run(t, "127.0.0.1:0", func(*testing.T) (a, b rpc.Network) { return rpc.TCP, rpc.TCP })
	})
	t.Run("TCPFrom", func(t *testing.T) {
		rpctest.Run(t, "127.0.0.1:0", func(*testing.T) (a, b rpc.Network) { return rpc.TCPFrom("127.3.2.1"), rpc.TCPFrom("127.0.0.1") })
	})
	if rpc.Beside(rpc.TCP) != nil {
		t.Run("Beside", func(t *testing.T) {
			rpctest.Run(t, "here:0", func(*testing.T) (a, b rpc.Network) {
				return rpc.Beside(rpc.TCP), anyPort{rpc.Beside(rpc.TCPFrom("127.0.0.1"))}
			})
		})
	}
	t.Run("Memory", func(t *testing.T) {
		rpctest.Run(t, "here:0", func(*testing.T) (a, b rpc.Network) {
			m := rpc.NewMemory()
			return m, m
		})
	})
	t.Run("Faulty", func(t *testing.T) {
		rpctest.Run(t, "here:0", func(t *testing.T) (a, b rpc.Network) {
			f := rpc.NewFaulty(rpc.NewMemory(), clock.System(), 1)
			t.Cleanup(func() { f.Close() })
			f.Set(rpc.Faults{DelayMax: 100 * time.Microsecond})
			return f.Node("a"), f.Node("b")
		})
	})
}

// TestTCPFrom: connections come from the address that was named wherever they can.
func TestTCPFrom(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only on Linux connections come from the address that is named")
	}
	l, err := rpc.TCP.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for host, want := range map[string]string{
		"127.3.2.1": "127.3.2.1", "::ffff:127.3.2.1": "127.3.2.1",
		"0.0.0.0": "127.0.0.1", "localhost": "127.0.0.1", "": "127.0.0.1", // any address, or none
		"192.0.2.1": "127.0.0.1", "::1": "127.0.0.1", // no way leads from there
	} {
		c, err := rpc.TCPFrom(host).Dial(t.Context(), l.Address())
		if err != nil {
			t.Errorf("from %q: %v", host, err)
			continue
		}
		got, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if at, _, _ := net.SplitHostPort(got.RemoteAddress()); at != want {
			t.Errorf("from %q: it comes from %s, want %s", host, at, want)
		}
		c.Close()
		got.Close()
	}
}
