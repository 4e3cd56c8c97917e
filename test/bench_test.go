package test

import (
	"encoding/json"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/quarryfs/quarry/bench"
)

// TestBench runs what "quarry bench" measures, as briefly as it can be: each figure that the documents
// quote is there, and is one; and of each kind of operation a longer percentile is not shorter.
func TestBench(t *testing.T) {
	for _, c := range []struct {
		args string
		want []string // figures that are greater than 0
	}{
		{"write --clients 1,2 --bytes 100000 --runs 2", []string{"write/1/throughput", "write/2/throughput", "write/1/cpu"}},
		{"read --cold --bytes 3000000 --runs 2", []string{"read/1/throughput", "read/1/cpu"}},
		{"read --local --bytes 100000 --runs 2", []string{"read-local/1/throughput"}},
		{"random --record 1,1000 --operations 40 --bytes 100000 --runs 1 --clients 3", []string{"random/3/1-bytes/rate", "random/3/1000-bytes/p99"}},
		{"append --clients 2,1,2 --servers 1,3 --operations 30 --files 2 --runs 1", []string{"append/1/1-servers/rate", "append/2/3-servers/rate", "append/2/3-servers/p50"}},
		{"small --operations 8 --clients 2 --servers 2 --runs 1", []string{"small/2/put/rate", "small/2/read/rate", "small/2/read/max"}},
		{"mixed --duration 100ms --bytes 100000 --runs 1", []string{"mixed/1/read/throughput", "mixed/1/write/throughput", "mixed/1/append/p99.9", "mixed/1/cpu"}},
		{"meta --clients 2 --operations 8 --runs 1 --shards 2", []string{"create/2/rate", "stat/2/rate", "list/2/rate", "move/2/rate", "remove/2/rate"}},
		{"failover --kill both --runs 1 --shards 2", []string{"failover/both/longest", "failover/both/shard-1", "failover/both/shard-2",
			"failover/both/file-of-shard-2", "failover/both/root-group", "failover/both/groups-led-by-the-dead"}},
		{"failover --runs 1", []string{"failover/master/longest", "failover/master/shard-4", "failover/master/root-group"}},
		{"clients --connections 20 --writers 3 --duration 500ms", []string{"clients/look-up/rate-of-all", "clients/look-up/longest-wait-of-one",
			"clients/create/rate-of-one", "clients/memory/connected", "clients/memory/peak", "clients/descriptors/connected"}},
		{"limits --clients 2 --operations 8 --runs 1 --files 40 --duration 100ms", []string{"limits/2/creates-in-one-directory",
			"limits/2/appends-to-one-file", "limits/2/directories-moved", "limits/40-files/memory-after"}},
	} {
		t.Run(c.args, func(t *testing.T) {
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
			for name, r := range got {
				if longer := got[strings.TrimSuffix(name, "p50")+"p99"]; strings.HasSuffix(name, "p50") && r.Verb != "" && (longer.Value < r.Value || longer.Clients != r.Clients) {
					t.Errorf("%+v\n%+v", r, longer)
				}
			}
		})
	}
	for _, bad := range []struct{ args, want string }{
		{"failover --kill nothing", "master, server or both"},
		{"failover --clients 2", "does not heed --clients"},
		{"nothing", "what can is write, read"},
		{"meta --clients 1,2", "one point"},
		{"write --clients 0", "1 to 4096"},
		{"write --servers 33", "1 to 32"},
		{"append --record 16777217", "1 to 16777216"},
		{"meta --masters 127.0.0.1:1", "does not heed --masters"},
		{"write --masters 127.0.0.1:1 --servers 3", "has the chunk servers that it has"},
		{"read --masters 127.0.0.1:1 --cold", "cannot be emptied"},
		{"read --bytes -1", "less than 0"},
		{"append --clients 1,2,3,4,5 --record 1,2,3,4,5 --servers 1,2,3", "75 points"},
	} {
		out, err := exec.CommandContext(t.Context(), program, strings.Fields("bench "+bad.args)...).CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), bad.want) {
			t.Errorf("%s: %v: %s", bad.args, err, out)
		}
	}
}
