package master

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/raft"
	"github.com/quarryfs/quarry/rpc"
	"github.com/quarryfs/quarry/wire"
)

// A snapshot's last part is never empty: the node that installs it may have had all it needs
// with the one before, and would take an empty one for the part of a stream it does not know.
func TestSnapshotParts(t *testing.T) {
	network := rpc.NewMemory()
	identity := func() rpc.Identity { return rpc.Identity{Role: rpc.RoleMaster} }
	server := rpc.NewServer(rpc.ServerConfig{Clock: clock.System(), Identity: identity})
	var parts []string
	server.HandleRaw(opSnapshot, func(_ context.Context, req *rpc.Raw) (*rpc.Raw, error) {
		var head part
		if err := wire.Unmarshal(req.Body, &head, partFields); err != nil {
			return nil, err
		}
		parts = append(parts, fmt.Sprintf("%d: %d bytes, last %v", head.Number, len(req.Payload), head.Last))
		return &rpc.Raw{}, nil
	})
	l, err := network.Listen("there:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(l) }() // it ends with the server
	defer server.Close()
	client := rpc.NewClient(rpc.ClientConfig{Network: network, Clock: clock.System(), Identity: identity})
	defer client.Close()
	p := &peers{client: client, clock: clock.System()}
	for size, want := range map[int][]string{
		1:                         {"0: 1 bytes, last true"},
		snapshotPartBytes:         {"0: 1048576 bytes, last true"},
		2 * snapshotPartBytes:     {"0: 1048576 bytes, last false", "1: 1048576 bytes, last true"},
		2*snapshotPartBytes + 100: {"0: 1048576 bytes, last false", "1: 1048576 bytes, last false", "2: 100 bytes, last true"},
	} {
		parts = nil
		if err := p.SendSnapshot(t.Context(), raft.Member{Node: quarry.NodeID(2), Address: l.Address()}, bytes.NewReader(make([]byte, size))); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(parts) != fmt.Sprint(want) {
			t.Errorf("%d bytes come as %q, want %q", size, parts, want)
		}
	}
}
