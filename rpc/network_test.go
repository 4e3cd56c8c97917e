package rpc_test

import (
	"testing"
	"time"

	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/rpc"
	"github.com/quarryfs/quarry/rpc/rpctest"
)

func TestNetworks(t *testing.T) {
	t.Run("TCP", func(t *testing.T) {
		rpctest.Run(t, "127.0.0.1:0", func(*testing.T) (a, b rpc.Network) { return rpc.TCP, rpc.TCP })
	})
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
