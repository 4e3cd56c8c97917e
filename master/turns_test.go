package master

import (
	"testing"
	"time"

	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/meta"
)

// Who asks first has the first turn, however often others ask; who does not ask any more, has given
// up or has had its turn keeps nobody waiting.
func TestTurns(t *testing.T) {
	var q turns
	now := clock.Instant(time.Hour)
	ask := func(tx, want meta.TxID) {
		t.Helper()
		if next := q.ask(tx, now); next != want {
			t.Errorf("%d asked: the next turn is that of %d, want %d", tx, next, want)
		}
	}
	ask(1, 1)
	ask(2, 1)
	ask(3, 1)
	ask(2, 1)
	changed := q.watch()
	q.leave(1)
	select {
	case <-changed:
	default:
		t.Error("nobody was told that the turn has ended")
	}
	ask(3, 2)
	now = now.Add(turnSilence)
	ask(3, 2) // just so
	now = now.Add(1)
	ask(3, 3)
	ask(2, 3)
	q.leave(7)
	ask(2, 3)
	q.leave(3)
	ask(4, 2)
	for tx := range meta.TxID(2 * turnsMax) {
		ask(100+tx, 2)
	}
	if n := len(q.waiting); n != turnsMax {
		t.Errorf("%d have a place", n)
	}
}
