package mutanttest

import (
	"cmp"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Trial is a rule, and what became of the seeds that ran without it.
type Trial struct {
	*Rule

	Seeds  int      // how many were without a violation
	Caught []string // the checkers that noticed in the next one; none: not caught
	Text   string   // the first violation
}

// Each calls f for all trials, as many at a time as there are processors.
func Each(trials []*Trial, f func(*Trial)) {
	next := make(chan *Trial)
	var pool sync.WaitGroup
	for range runtime.NumCPU() {
		pool.Go(func() {
			for m := range next {
				f(m)
			}
		})
	}
	for _, m := range trials {
		next <- m
	}
	close(next)
	pool.Wait()
}

// Tell writes the table of docs/testing.md, and the first violations if it is to be verbose.
func Tell(w io.Writer, trials []*Trial, verbose bool) {
	slices.SortStableFunc(trials, func(a, b *Trial) int {
		if (a.Caught == nil) != (b.Caught == nil) {
			return cmp.Compare(len(b.Caught), len(a.Caught))
		}
		return cmp.Compare(a.Seeds, b.Seeds)
	})
	fmt.Fprintln(w, "| without the rule | room | seeds until caught | by |\n|---|---|---|---|")
	for _, m := range trials {
		seed, by := fmt.Sprintf("not in %d", m.Seeds), "elsewhere: "+strings.Join(m.Tests, ", ")
		switch {
		case m.Caught != nil:
			seed, by = strconv.Itoa(m.Seeds+1), strings.Join(m.Caught, "; ")
		case m.Seeds == 0:
			seed = "not run"
		}
		fmt.Fprintf(w, "| %s | `%s` | %s | %s |\n", m.Name, m.Room, seed, by)
	}
	if !verbose {
		return
	}
	for _, m := range trials {
		if m.Caught != nil {
			fmt.Fprintf(w, "\nwithout %q: %s\n", m.Name, m.Text[:min(len(m.Text), 1500)])
		}
	}
}
