package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/rpc/rpctest"
	"github.com/quarryfs/quarry/rpc/secure"
)

// workerDies has a worker of this test die in its first job, having said something.
const workerDies = "QUARRY_TEST_WORKER_DIES"

// TestMain is a worker when it is started as one.
func TestMain(m *testing.M) {
	if len(os.Args) <= 1 || !slices.Equal(os.Args[1:], WorkerArgs) {
		os.Exit(m.Run())
	}
	out := func(p []byte) (int, error) { return os.Stdout.Write(p) }
	if os.Getenv(workerDies) != "" {
		answers := 0
		out = func(p []byte) (int, error) {
			if answers++; answers == 2 {
				fmt.Fprintln(os.Stderr, "something dreadful has happened")
				os.Exit(3)
			}
			return os.Stdout.Write(p)
		}
	}
	if err := Work(context.Background(), os.Stdin, writer(out)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type writer func(p []byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// TestProcesses: what clients in three processes do is as much as what clients in this one do, and
// the processor time of all is counted, also of a cluster under TLS.
func TestProcesses(t *testing.T) {
	for verb, tls := range map[string]secure.Files{"append": rpctest.NewAuthority(t).Issue(t.TempDir(), "127.0.0.1", time.Hour), "mixed": {}} {
		results, err := Run(t.Context(), verb, Config{
			Dir: t.TempDir(), TLS: tls, Runs: 1, Processes: 3, Clients: []int{1, 4}, Bytes: 100_000, Operations: 40, Duration: 50 * time.Millisecond,
		})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]Result{}
		for _, r := range results {
			got[r.Name] = r
		}
		prefix := verb + "/4/"
		if all, clients := got[prefix+"cpu"], got[prefix+"cpu-of-clients"]; clients.Value <= 0 || all.Value <= clients.Value || clients.Bare <= 0 {
			t.Errorf("%s: %+v of %+v", verb, clients, all)
		}
		if verb == "mixed" {
			prefix += "append/"
		}
		if p := got[prefix+"max"]; p.Value <= 0 || p.Bare <= 0 {
			t.Errorf("%s: %+v", verb, p)
		}
	}
}

// TestWorkerDies: a worker that ends is an error that tells what it said, and the others are ended;
// one that cannot do its work is an error of that kind.
func TestWorkerDies(t *testing.T) {
	c := Config{Dir: t.TempDir(), Runs: 1, Processes: 2, Clients: []int{2}, Bytes: 100_000}
	t.Run("it dies", func(t *testing.T) {
		t.Setenv(workerDies, "yes")
		_, err := Run(t.Context(), "write", c)
		if err == nil || !strings.Contains(err.Error(), "of 2: internal error: it has ended (exit status 3), and said: something dreadful") {
			t.Error(err)
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		ctx, interrupt := context.WithCancel(t.Context())
		defer interrupt()
		c := c
		c.Progress = func(what string) {
			if strings.Contains(what, "run 1 of") {
				interrupt()
			}
		}
		if _, err := Run(ctx, "write", c); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// TestWorkerRefuses: a worker that somebody starts by hand says what it is, whatever it is told.
func TestWorkerRefuses(t *testing.T) {
	for _, in := range []string{"", "hello", "{}", `{"Verb":"meta","Workers":1}`, `{"Verb":"write","Workers":2,"Worker":2}`, `{"Verb":"write","Worker":-1,"Workers":2}`, `[1]`} {
		var out strings.Builder
		if err := Work(t.Context(), strings.NewReader(in), &out); quarry.KindOf(err) != quarry.Invalid || out.Len() > 0 {
			t.Errorf("%q: %v, %q", in, err, out.String())
		}
	}
}

// TestJoin: histograms of several processes are one.
func TestJoin(t *testing.T) {
	var whole, joined histogram
	for part := range 3 {
		var h histogram
		for i := range 100 {
			d := time.Duration(part*1000+i*i) * time.Microsecond
			h.add(d)
			whole.add(d)
		}
		joined.join(&h)
	}
	for _, q := range quantiles {
		if whole.at(q.part) != joined.at(q.part) {
			t.Errorf("%s: %v and %v", q.name, whole.at(q.part), joined.at(q.part))
		}
	}
	if joined.Number != 300 {
		t.Error(joined.Number)
	}
}
