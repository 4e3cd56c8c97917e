package sim

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// seedTime is how long a seed may take, on a machine that has other things to do.
const seedTime = 5 * time.Minute

// TestSeeds runs many seeds, each in a process of its own, and those of the corpus.
func TestSeeds(t *testing.T) {
	if *seedFlag != 0 || os.Getenv(seedVariable) != "" {
		t.Skip("one seed is run by TestOneSeed")
	}
	seeds := corpus(t)
	known := len(seeds)
	n := *seedsFlag
	if testing.Short() {
		n = min(n, 4)
	}
	for i := range n {
		seeds = append(seeds, *fromFlag+uint64(i))
	}
	s := &seedRun{t: t, total: map[string]int64{}, reached: map[string]int{}}
	begun := make(chan int)
	var pool sync.WaitGroup
	for range runtime.NumCPU() {
		pool.Go(func() {
			for i := range begun {
				s.seed(seeds[i], i >= known && *twiceFlag > 0 && (i-known)%*twiceFlag == 0)
			}
		})
	}
	end := time.Now().Add(time.Duration(*minutesFlag * float64(time.Minute)))
	done := 0
	for i := range seeds {
		if i >= known && time.Now().After(end) {
			break
		}
		begun <- i
		done++
	}
	close(begun)
	pool.Wait()
	s.report(done)
}

// seedRun sums up what the seeds show.
type seedRun struct {
	t  *testing.T
	mu sync.Mutex

	operations, faults, events int64
	fewOperations, fewFaults   int
	simulated                  time.Duration
	processor                  time.Duration
	total                      map[string]int64
	reached                    map[string]int // seeds in which it happened
	twice, alike, sameHistory  int
}

// seed runs one seed, or two times the same.
func (s *seedRun) seed(seed uint64, twice bool) {
	o, processor, err := child(s.t.Context(), s.t.TempDir(), seed)
	again := o
	if err == nil && twice {
		again, _, err = child(s.t.Context(), s.t.TempDir(), seed)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.t.Errorf("seed %d: %v\nrepeat it with: %s", seed, err, command(seed))
		return
	}
	if twice {
		s.twice++
		if o.Hash == again.Hash {
			s.alike++
		}
		if o.HistoryHash == again.HistoryHash {
			s.sameHistory++
		}
	}
	if len(o.Violations) > 0 {
		s.t.Errorf("seed %d: %s\nrepeat it with: %s\nthe last that happened:\n%s", seed,
			strings.Join(o.Violations, "\n"), command(seed), strings.Join(o.Last, "\n"))
	}
	if testing.Verbose() {
		fmt.Printf("seed %d: %d operations, %d faults, %d violations, %v simulated in %v of processor time\n",
			seed, o.Operations, o.Faults, len(o.Violations), o.Simulated.Round(time.Millisecond), processor.Round(time.Millisecond))
	}
	s.operations += int64(o.Operations)
	s.faults += int64(o.Faults)
	s.events += o.Events
	s.simulated += o.Simulated
	s.processor += processor
	if o.Operations < 500 {
		s.fewOperations++
	}
	if o.Faults < 10 {
		s.fewFaults++
	}
	for what, n := range o.Counts {
		s.total[what] += n
		s.reached[what]++
	}
}

func command(seed uint64) string { return fmt.Sprintf("go test ./sim -run OneSeed -seed %d", seed) }

// child runs a seed in a sub-process, with some variables of its environment, and returns its
// result and the processor time.
func child(ctx context.Context, dir string, seed uint64, env ...string) (o outcome, processor time.Duration, err error) {
	file := filepath.Join(dir, "result")
	ctx, cancel := context.WithTimeout(ctx, seedTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestOneSeed$", "-test.timeout=0")
	// One goroutine at a time, and none is interrupted: what happens within an instant
	// happens in one order.
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1", "GOTRACEBACK=all",
		seedVariable+"="+strconv.FormatUint(seed, 10), resultVariable+"="+file)
	cmd.Env = append(cmd.Env, env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGQUIT) } // it tells where it stands
	cmd.WaitDelay = 10 * time.Second
	err = cmd.Run()
	if cmd.ProcessState != nil {
		processor = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	if err != nil {
		text := out.Bytes()
		return o, processor, fmt.Errorf("%w\n%s", err, text[:min(len(text), 16<<10)])
	}
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &o)
	}
	return o, processor, err
}

// report prints the sums and the table of what was reached.
func (s *seedRun) report(seeds int) {
	fmt.Printf("%d seeds: %d operations (%d seeds had fewer than 500), %d faults (%d seeds had fewer than 10), %d events, %v simulated, %v of processor time\n",
		seeds, s.operations, s.fewOperations, s.faults, s.fewFaults, s.events, s.simulated.Round(time.Second), s.processor.Round(time.Second))
	if s.twice > 0 {
		fmt.Printf("%d seeds ran twice: %d with the same events, %d with the same history\n", s.twice, s.alike, s.sameHistory)
	}
	if !testing.Verbose() {
		return
	}
	names := slices.SortedFunc(maps.Keys(s.total), func(a, b string) int { return cmp.Compare(a, b) })
	for _, what := range names {
		fmt.Printf("%9d times in %5d seeds  %s\n", s.total[what], s.reached[what], what)
	}
}

// corpus returns the seeds that are always run; the file says why.
func corpus(t *testing.T) (seeds []uint64) {
	f, err := os.Open("testdata/corpus")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		field, _, _ := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		if field == "" || field[0] == '#' {
			continue
		}
		seed, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			t.Fatalf("testdata/corpus: %v", err)
		}
		seeds = append(seeds, seed)
	}
	return seeds
}
