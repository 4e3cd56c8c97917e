package bench

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/cluster"
)

// TestRunningCluster measures a cluster that somebody else has started: it has nothing of it
// afterwards, whether the measurement came to its end or was interrupted.
func TestRunningCluster(t *testing.T) {
	dev, err := cluster.StartDev(t.Context(), cluster.DevOptions{Common: cluster.Common{Listen: "127.0.0.1:0"}, Dir: t.TempDir(), Masters: 1, Servers: 3, Shards: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	fs, err := client.Open(t.Context(), dev.Masters, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	left := func() int {
		entries, _, err := fs.List(t.Context(), "/", "", 10)
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	tiny := Config{Dir: t.TempDir(), Masters: dev.Masters, Runs: 1, Bytes: 100_000, Operations: 4}
	for _, verb := range []string{"random", "append"} {
		results, err := Run(t.Context(), verb, tiny)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range results {
			if r.Value <= 0 && !strings.Contains(r.Name, "cpu") || r.Servers != 0 || (r.Bare > 0) && verb == "append" {
				t.Errorf("%+v", r)
			}
		}
		if n := left(); n != 0 {
			t.Errorf("%s has left %d entries", verb, n)
		}
	}
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	seen := 0
	tiny.Progress = func(what string) {
		if strings.Contains(what, "run 1 of") {
			seen = left()
			interrupt()
		}
	}
	if _, err := Run(ctx, "read", tiny); !errors.Is(err, context.Canceled) {
		t.Errorf("it was interrupted, and says %v", err)
	}
	if n := left(); seen != 1 || n != 0 {
		t.Errorf("there were %d entries when it was interrupted, and %d afterwards", seen, n)
	}
}
