package chunks

import (
	"strings"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
)

// The status names the chunks that lack replicas, and says why in words.
func TestLacking(t *testing.T) {
	inWorld(t, 3, func(w *world) { // nowhere to copy to
		rec := w.sealed("a")
		why := func(want string, copies int) {
			t.Helper()
			list := w.lead().Lacking(quarry.LackingMax)
			if len(list) != 1 || list[0].Handle != rec.Handle || list[0].Copies != copies || list[0].Wanted != 3 || !strings.Contains(list[0].Why, want) {
				t.Fatalf("%+v, want %q", list, want)
			}
		}
		if list := w.lead().Lacking(quarry.LackingMax); len(list) != 0 {
			t.Fatalf("%+v", list)
		}
		w.net.server(rec.Replicas[0].Server).unplug()
		w.pass(40 * time.Second)
		why("has a replica already (2)", 2)
		w.net.server(rec.Replicas[1].Server).unplug()
		w.pass(40 * time.Second)
		why("has a replica already (1)", 1)
		w.net.server(rec.Replicas[2].Server).unplug()
		w.pass(40 * time.Second)
		why("is silent for", 1) // nobody is declared dead by a leader that hears nobody
		if list := w.lead().Lacking(0); len(list) != 0 {
			t.Errorf("%+v", list)
		}
	})
}
