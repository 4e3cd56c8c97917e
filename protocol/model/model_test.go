package model

import (
	"context"
	"flag"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

var (
	long  = flag.Duration("long", 4*time.Second, "time of the random run, and twice that of a search")
	seed  = flag.Int64("seed", 1, "first seed")
	runs  = flag.Int("runs", 0, "schedules, 0 for no bound")
	full  = flag.Bool("full", false, "search the large configurations too")
	trace = flag.Bool("acts", false, "print the acts of a violation")
)

func limit(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestRandom(t *testing.T) {
	acked, seals, reopens := 0, 0, 0
	o := options{seed: *seed, schedules: *runs, steps: 300, trace: *trace}
	o.done = func(w *world) {
		a, s, r := w.stats()
		acked, seals, reopens = acked+a, seals+s, reopens+r
	}
	res := random(limit(t, *long), fresh, o)
	t.Log(res, "acked", acked, "sealed", seals, "re-opened", reopens)
	if reopens == 0 && res.violation == "" {
		t.Error("no chunk was opened again")
	}
	report(t, res)
}

// report fails the test with the command that repeats the violation.
func report(t *testing.T, res result) {
	t.Helper()
	if res.violation == "" {
		return
	}
	for _, l := range res.trace {
		t.Log(l)
	}
	t.Fatalf("%s\nrepeat: go test ./protocol/model -run '^%s$' -runs 1 -acts -seed %d", res.violation, t.Name(), res.seed)
}

// String names the budgets that are not zero.
func (b budgets) String() string {
	s := ""
	v := reflect.ValueOf(b)
	for i := range v.NumField() {
		if n := v.Field(i).Int(); n > 0 {
			s += fmt.Sprintf(" %s %d", v.Type().Field(i).Name, n)
		}
	}
	return strings.TrimSpace(s)
}

// TestSearch visits every state of small configurations.
func TestSearch(t *testing.T) {
	for _, c := range []struct {
		window int
		b      budgets
		slow   bool
	}{
		{1, budgets{seal: 1, sends: 2}, false},
		{1, budgets{seal: 1, sends: 1, crash: 1}, false},
		{1, budgets{seal: 1, sends: 1, ticks: 1, reads: 1}, false},
		{1, budgets{seal: 1, sends: 1, rollback: 1}, false},
		{1, budgets{seal: 1, sends: 1, fail: 1}, false},
		{1, budgets{seal: 1, sends: 1, zombie: 1}, false},
		{1, budgets{seal: 1, sends: 1, failover: 1, garbage: 1}, false},
		{1, budgets{seal: 1, sends: 1, forget: 1}, false},
		{1, budgets{seal: 1, reopen: 1, sends: 1}, false},
		{1, budgets{seal: 2, reopen: 1, sends: 1}, true},
		{1, budgets{seal: 1, reopen: 1, sends: 1, crash: 1}, false},
		{1, budgets{seal: 1, reopen: 1, sends: 1, failover: 1}, true},
		{1, budgets{seal: 1, reopen: 1, sends: 2}, true},
		{2, budgets{seal: 1, sends: 2}, true},
		{1, budgets{seal: 1, sends: 3}, true},
		{1, budgets{seal: 1, sends: 2, crash: 1}, true},
		{1, budgets{seal: 1, sends: 2, fail: 1}, true},
		{1, budgets{seal: 1, sends: 2, ticks: 1, reads: 1}, true},
		{1, budgets{seal: 1, sends: 3, forget: 1}, true},
		{3, budgets{seal: 1, sends: 3}, true},
		{1, budgets{seal: 1, sends: 2, rollback: 1, crash: 1}, true},
		{1, budgets{seal: 1, sends: 2, ticks: 2, heartbeat: 1, reads: 1}, true},
		{1, budgets{seal: 2, sends: 3}, true},
	} {
		if c.slow && !*full {
			continue
		}
		t.Run(fmt.Sprintf("window %d, %v", c.window, c.b), func(t *testing.T) {
			w := newWorld(config{servers: 2, replicas: 2, clients: 1, length: big, window: c.window}, c.b)
			res := exhaust(limit(t, *long/2), w, options{states: 4_000_000, trace: *trace})
			t.Log(res)
			if res.violation != "" {
				t.Fatal(res.violation)
			}
		})
	}
}
