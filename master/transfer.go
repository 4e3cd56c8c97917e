package master

import (
	"context"

	"github.com/quarryfs/quarry"
)

// Transfer hands the leadership of a group over to another voter. Whoever asks has been
// proven to know the cluster's key, like all operators; it harms nobody but for the moment
// that it takes.
func (m *Master) Transfer(ctx context.Context, req *quarry.TransferRequest) error {
	if !m.started.Load() {
		return m.waiting("transfer")
	}
	switch _, err := m.led("transfer", req.Shard); {
	case err != nil:
		return err
	case req.To == m.node: // it has been done
		return nil
	case req.To == 0:
		return quarry.Errorf("transfer", quarry.Invalid, "", "the node that is to lead must be named")
	}
	return m.renounce(ctx, req.Shard, req.To)
}
