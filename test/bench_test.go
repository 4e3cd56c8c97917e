package test

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/quarryfs/quarry/bench"
)

// TestBench runs what "quarry bench" measures with processes of its own, as briefly as it can be:
// each figure that the documents quote is there, and is one.
func TestBench(t *testing.T) {
	for _, c := range []struct {
		args string
		want []string // figures that are greater than 0
	}{
		{"meta --clients 2 --operations 8 --runs 1 --shards 2", []string{"create/2/rate", "stat/2/rate", "list/2/rate", "move/2/rate", "remove/2/rate"}},
		{"failover --kill both --runs 1 --shards 2", []string{"failover/both/longest", "failover/both/shard-1", "failover/both/shard-2",
			"failover/both/file-of-shard-2", "failover/both/root-group", "failover/both/groups-led-by-the-dead"}},
		{"failover --runs 1", []string{"failover/master/longest", "failover/master/shard-4", "failover/master/root-group"}},
		{"clients --connections 20 --writers 3 --duration 500ms", []string{"clients/look-up/rate-of-all", "clients/look-up/longest-wait-of-one",
			"clients/create/rate-of-one", "clients/memory/connected", "clients/memory/peak", "clients/descriptors/connected"}},
		{"limits --clients 2 --operations 8 --runs 1 --files 40 --duration 100ms", []string{"limits/2/creates-in-one-directory",
			"limits/2/appends-to-one-file", "limits/2/directories-moved", "limits/40-files/memory-after"}},
	} {
		t.Run(strings.Fields(c.args)[0], func(t *testing.T) {
			out, err := exec.CommandContext(t.Context(), program, append(strings.Fields("bench --json --dir "+t.TempDir()), strings.Fields(c.args)...)...).Output()
			if err != nil {
				t.Fatalf("%s: %v", c.args, err)
			}
			got := map[string]bench.Result{}
			for line := range strings.Lines(string(out)) {
				var r bench.Result
				if err := json.Unmarshal([]byte(line), &r); err != nil {
					t.Fatalf("%q: %v", line, err)
				}
				got[r.Name] = r
			}
			for _, name := range c.want {
				if r := got[name]; r.Value <= 0 || r.Runs < 1 {
					t.Errorf("%s: %+v", name, r)
				}
			}
		})
	}
	if out, err := exec.Command(program, "bench", "failover", "--kill", "nothing").CombinedOutput(); err == nil || !strings.Contains(string(out), "master, server or both") {
		t.Errorf("%v: %s", err, out)
	}
}
