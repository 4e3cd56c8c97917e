package master

import (
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/rpc"
	"github.com/quarryfs/quarry/wire"
)

// TestAskTooEarly asks a master that has no cluster yet: who asks may ask again.
func TestAskTooEarly(t *testing.T) {
	synctestCluster(t, 2, func(t *testing.T, c *testCluster) {
		body := wire.Marshal(nil, &question{Verb: askOutcome, Slot: 1, Tx: 1}, questionFields)
		_, err := c.nodes[0].client.CallRaw(t.Context(), c.nodes[1].address, rpc.Route{Lane: rpc.LaneControl}, opAsk, &rpc.Raw{Body: body})
		if quarry.KindOf(err) != quarry.Unavailable {
			t.Errorf("a master that waits answers: %v", err)
		}
	})
}
