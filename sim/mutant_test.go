//go:build mutant

package sim

import (
	"cmp"
	"context"
	"flag"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quarryfs/quarry/disk/mutanttest"
)

var rulesFlag = flag.String("rules", "", `the rules to switch off, each by itself, with semicolons between them; "all": every one; none: those that a few seeds catch`)

// quick are the rules that the simulation must catch within quickSeeds seeds: the default run.
var quick = []string{
	"majority", "next chunk without fate", "ack before sync", "uncommitted read",
	"state without the applied index", "handle range reused", "CREATE after logged", "no lease check", "fence reports unsynced",
}

const quickSeeds = 6

// hangs is how much processor time a seed must use, many times what it needs, before it is said
// not to end.
const hangs = 40 * time.Second

// TestMutants runs seed after seed without a rule until a checker notices. A seed in which one
// does although every rule holds is left out. All rules have had a seed before one gets the next.
func TestMutants(t *testing.T) {
	if *seedFlag != 0 || os.Getenv(seedVariable) != "" {
		t.Skip("one seed is run by TestOneSeed")
	}
	mutants, seeds := chosen(t), *seedsFlag
	if *rulesFlag == "" {
		seeds = min(seeds, quickSeeds)
	}
	end := time.Now().Add(time.Duration(*minutesFlag * float64(time.Minute)))
	open := slices.Clone(mutants)
	for seed := *fromFlag; seed < *fromFlag+uint64(seeds) && len(open) > 0 && time.Now().Before(end); seed++ {
		if by, text, err := runWithout(t, "", seed); err != nil || by != nil {
			t.Logf("seed %d is left out, it fails when every rule holds, too: %s %v", seed, text, err)
			continue
		}
		mutanttest.Each(open, func(m *mutanttest.Trial) {
			if time.Now().After(end) {
				return
			}
			by, text, err := runWithout(t, m.Name, seed)
			switch {
			case err != nil:
				t.Logf("seed %d without %q has no result: %v", seed, m.Name, err)
			case by == nil:
				m.Seeds++
			default:
				m.Caught, m.Text = by, text
			}
		})
		open = slices.DeleteFunc(open, func(m *mutanttest.Trial) bool { return m.Caught != nil })
	}
	mutanttest.Tell(os.Stdout, mutants, testing.Verbose())
	for _, m := range open {
		if *rulesFlag == "" {
			t.Errorf("%d seeds do not notice that %q does not hold", m.Seeds, m.Name)
		}
	}
}

// runWithout runs a seed without a rule and returns which checkers noticed, and the first of
// what they found; nil if none did. An error is no verdict.
func runWithout(t *testing.T, rule string, seed uint64) (by []string, text string, err error) {
	ctx, cancel := context.WithTimeout(t.Context(), seedTime)
	defer cancel()
	o, processor, err := child(ctx, t.TempDir(), seed, mutanttest.Off+"="+rule)
	if err == nil {
		for _, v := range o.Violations {
			if c := checker(v); !slices.Contains(by, c) {
				by, text = append(by, c), cmp.Or(text, v)
			}
		}
		return by, text, nil
	}
	if ctx.Err() != nil {
		if processor > hangs {
			return []string{"it does not end"}, err.Error(), nil
		}
		return nil, "", err
	}
	for _, how := range []string{"panic: ", "fatal error: ", "--- FAIL"} { // the first says most
		for line := range strings.Lines(err.Error()) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, how) {
				return []string{"the process: " + line[:min(len(line), 80)]}, err.Error(), nil
			}
		}
	}
	return nil, "", err
}

var historyChecker = regexp.MustCompile(`^VIOLATION \(([^)]*)\)`)

// checker returns the name of the checker that a violation is from.
func checker(violation string) string {
	if m := historyChecker.FindStringSubmatch(violation); m != nil {
		return "history: " + m[1]
	}
	name, _, _ := strings.Cut(violation, ":")
	return name[:min(len(name), 60)]
}

// chosen returns the rules that the flag names.
func chosen(t *testing.T) (mutants []*mutanttest.Trial) {
	t.Helper()
	rules := mutanttest.Protocol(t, "..")
	for _, room := range []string{"meta", "raft", "master", "master/chunks"} {
		rules = append(rules, mutanttest.Room(t, "..", room)...)
	}
	var all []*mutanttest.Trial
	for _, r := range rules {
		all = append(all, &mutanttest.Trial{Rule: r})
	}
	names := quick
	switch *rulesFlag {
	case "":
	case "all":
		return all
	default:
		names = strings.Split(*rulesFlag, ";")
	}
	for _, name := range names {
		i := slices.IndexFunc(all, func(m *mutanttest.Trial) bool { return m.Name == strings.TrimSpace(name) })
		if i < 0 {
			t.Fatalf("there is no rule %q", name)
		}
		mutants = append(mutants, all[i])
	}
	return mutants
}
