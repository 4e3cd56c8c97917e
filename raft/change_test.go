package raft

import (
	"errors"
	"sync"
	"testing"

	"github.com/quarryfs/quarry"
)

// TestChangeOfAHostThatStops asks for a change of several members on a leader that stops when the change
// is agreed on, and not complete: whoever waits for it is told so.
func TestChangeOfAHostThatStops(t *testing.T) {
	var joint, release chan struct{} // of the bubble
	var once sync.Once
	config := func(cfg *Config) {
		cfg.Changed = func(_ quarry.ShardID, c Changed) {
			if len(c.Outgoing) > 0 { // nobody goes on
				once.Do(func() { close(joint) })
				<-release
			}
		}
	}
	inBubble(t, 3, 1, config, func(t *testing.T, c *testCluster) {
		joint, release = make(chan struct{}), make(chan struct{})
		leader := c.leader(0)
		var gone []quarry.NodeID
		for id := range c.nodes {
			if id != leader.id {
				gone = append(gone, id)
			}
		}
		done := make(chan error, 1)
		go func() { done <- leader.host.ChangeMembership(t.Context(), 0, Change{Remove: gone}) }()
		<-joint
		stopped := make(chan struct{})
		go func() {
			leader.stop()
			close(stopped)
		}()
		err := <-done
		close(release)
		<-stopped
		if !errors.Is(err, quarry.Unknown) {
			t.Errorf("the change ended with %v", err)
		}
	})
}
