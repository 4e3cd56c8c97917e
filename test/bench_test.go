package test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/quarryfs/quarry/bench"
)

// TestBench runs what "quarry bench" measures, as briefly as it can be: each figure that the documents
// quote is there, and is one; and of each kind of operation a longer percentile is not shorter.
func TestBench(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args string
		want []string // figures that are greater than 0
	}{
		{"write small --clients 1,2 --bytes 100000 --operations 8 --runs 2 --html page.html", []string{"write/1/throughput", "write/2/throughput", "write/1/cpu", "small/2/put/cpu-per-byte"}},
		{"read-cold read random-cold --bytes 3000000 --operations 10 --runs 2", []string{"read-cold/1/throughput", "read-cold/1/cpu", "read/1/throughput", "random-cold/1/p50"}},
		{"read --local --bytes 100000 --runs 2", []string{"read-local/1/throughput"}},
		{"write append --processes 2 --clients 3 --bytes 100000 --operations 30 --runs 1", []string{"write/3/cpu-of-clients", "append/3/p99"}},
		{"random --record 1,1000 --operations 40 --bytes 100000 --runs 1 --clients 3", []string{"random/3/1-bytes/rate", "random/3/1000-bytes/p99"}},
		{"append --clients 2,1,2 --servers 1,3 --operations 30 --files 2 --runs 1", []string{"append/1/1-servers/rate", "append/2/3-servers/rate", "append/2/3-servers/p50"}},
		{"small --operations 8 --clients 2 --servers 2 --runs 1", []string{"small/2/put/rate", "small/2/read/rate", "small/2/read/max"}},
		{"mixed --duration 100ms --bytes 100000 --runs 1", []string{"mixed/1/read/throughput", "mixed/1/write/throughput", "mixed/1/append/p99.9", "mixed/1/cpu"}},
		{"beside --clients 2 --duration 100ms --bytes 3000000 --runs 1", []string{"beside/alone/read/rate", "beside/computing/read/p50", "beside/bare-copies/bulk/throughput",
			"beside/bulk-reads/bulk/throughput", "beside/bulk-reads/append/p99", "beside/bulk-reads-here/bulk/throughput", "beside/bulk-reads/cpu"}},
		{"meta --clients 2 --operations 8 --runs 1 --shards 2", []string{"create/2/rate", "stat/2/rate", "list/2/rate", "move/2/rate", "remove/2/rate"}},
		{"failover --kill both --runs 1 --shards 2", []string{"failover/both/longest", "failover/both/shard-1", "failover/both/shard-2",
			"failover/both/file-of-shard-2", "failover/both/root-group", "failover/both/groups-led-by-the-dead"}},
		{"failover --kill mute --runs 1 --shards 1", []string{"failover/mute/longest", "failover/mute/shard-1", "failover/mute/file-of-shard-1"}},
		{"failover --runs 1", []string{"failover/master/longest", "failover/master/shard-4", "failover/master/root-group"}},
		{"recovery --dead-after 2s --duration 100ms --clients 2 --bytes 3000000 --runs 1", []string{"recovery/until-whole", "recovery/copying", "recovery/copied",
			"recovery/reads-before/throughput", "recovery/reads-while-waiting/p99", "recovery/processors-while-copying"}},
		{"clients --connections 20 --writers 3 --duration 500ms", []string{"clients/look-up/rate-of-all", "clients/look-up/longest-wait-of-one",
			"clients/create/rate-of-one", "clients/memory/connected", "clients/memory/peak", "clients/descriptors/connected"}},
		{"memory --bytes 3000000 --connections 5 --duration 500ms", []string{"memory/client/before", "memory/client/put", "memory/client/read",
			"memory/server/before", "memory/server/5-idle", "memory/server/5-idle/descriptors", "memory/server/5-busy", "memory/server/after"}},
		{"limits --clients 2 --operations 8 --runs 1 --files 40 --duration 100ms", []string{"limits/2/appends-to-one-file/cpu", "limits/2/creates-in-one-directory",
			"limits/2/appends-to-one-file", "limits/2/directories-moved", "limits/40-files/memory-after"}},
	} {
		t.Run(c.args, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), program, append(strings.Fields("bench --json --dir "+t.TempDir()), strings.Fields(c.args)...)...)
			cmd.Dir = t.TempDir()
			out, err := cmd.Output()
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
			if r, ok := got["recovery/until-whole"]; ok && r.Value < 1 { // it is 2 s from the server's last sign of life until anything is copied
				t.Errorf("everything was whole before anything was missed: %+v", r)
			}
			if page, err := os.ReadFile(filepath.Join(cmd.Dir, "page.html")); strings.Contains(c.args, "--html") && (err != nil || !strings.Contains(string(page), "small/2/read/p99")) {
				t.Errorf("the page has %d bytes: %v", len(page), err)
			}
			for name, r := range got {
				if longer := got[strings.TrimSuffix(name, "p50")+"p99"]; strings.HasSuffix(name, "p50") && r.Verb != "" && (longer.Value < r.Value || longer.Clients != r.Clients) {
					t.Errorf("%+v\n%+v", r, longer)
				}
			}
		})
	}
	for _, bad := range []struct{ args, want string }{
		{"failover --kill nothing", "master, server, both or mute"},
		{"failover --clients 2", "does not heed --clients"},
		{"nothing", "what can is write, read"},
		{"meta --clients 1,2", "one point"},
		{"write --clients 0", "1 to 4096"},
		{"write --processes 65", "1 to 64"},
		{"recovery --servers 3", "one of them without a copy"},
		{"recovery --servers 4,5", "one point"},
		{"worker", "not by hand"},
		{"write --servers 33", "1 to 32"},
		{"append --record 16777217", "1 to 16777216"},
		{"meta --masters 127.0.0.1:1", "does not heed --masters"},
		{"write --masters 127.0.0.1:1 --servers 3", "has the chunk servers that it has"},
		{"read --masters 127.0.0.1:1 --cold", "cannot be emptied"},
		{"read --bytes -1", "less than 0"},
		{"read write --operations 5", "does not heed --operations"},
		{"read write read", "read is named twice"},
		{"write-cold", "cannot be measured"},
		{"read-local-cold", "cannot be measured"},
		{"read read-cold --cold", "say it by the name"},
		{"append --clients 1,2,3,4,5 --record 1,2,3,4,5 --servers 1,2,3", "75 points"},
	} {
		out, err := exec.CommandContext(t.Context(), program, strings.Fields("bench "+bad.args)...).CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), bad.want) {
			t.Errorf("%s: %v: %s", bad.args, err, out)
		}
	}
}
