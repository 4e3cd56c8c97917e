package test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/quarryfs/quarry/chaos"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/history"
)

// inNamespace is set in the process that runs a test in namespaces of its own.
const inNamespace = "QUARRY_TEST_IN_NAMESPACE"

// isolated runs the calling test in another process, with namespaces of its own (unix.CLONE_NEW…), a mount
// namespace among them, and reports false; in that process it reports true. It skips the test
// where that is not possible, or a tool is missing, and says why.
func isolated(t *testing.T, namespaces uintptr, tools ...string) bool {
	t.Helper()
	if os.Getenv(inNamespace) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("namespaces need root")
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%v: install the packages iproute2 and nftables", err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=20m")
	cmd.Env = append(os.Environ(), inNamespace+"="+program)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | namespaces, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EINVAL) {
		t.Skipf("this machine lets nobody make namespaces: %v", err)
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
		return false
	}
	if i := strings.Index(string(out), "--- SKIP"); i >= 0 {
		t.Skip(strings.TrimSpace(string(out)))
	}
	t.Logf("%s", out)
	return false
}

// smallDisk is a file system in memory.
type smallDisk struct {
	dir   string
	bytes int64
}

func (d smallDisk) mount() error {
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return err
	}
	return unix.Mount("small", d.dir, "tmpfs", 0, fmt.Sprintf("size=%d", d.bytes))
}

// full leaves as much room as a few small files take, also when what was dropped has made room.
func (d smallDisk) full() error {
	dropped, err := filepath.Glob(filepath.Join(d.dir, "trash", "*"))
	if err != nil {
		return err
	}
	for _, name := range dropped {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	free, err := d.free()
	if err != nil {
		return err
	}
	used := d.bytes - free
	return unix.Mount("small", d.dir, "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("size=%d", used+256<<10))
}

func (d smallDisk) free() (int64, error) {
	var st unix.Statfs_t
	err := unix.Statfs(d.dir, &st)
	return int64(st.Bfree) * st.Bsize, err
}

func (d smallDisk) roomy() error {
	return unix.Mount("small", d.dir, "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("size=%d", d.bytes))
}

// faults are the faults that a test of processes does to real kernels' networks and disks.
type faults struct {
	net   *namespaces
	small smallDisk

	mu  sync.Mutex
	met map[string]int // packets, by what was done
}

// between returns the links between one node and others, both ways.
func between(a string, others ...string) (links [][2]string) {
	for _, b := range others {
		if a != b {
			links = append(links, [2]string{a, b}, [2]string{b, a})
		}
	}
	return links
}

// deed changes links, and changes them back in the end. It notes how many packets have met it.
func (f *faults) deed(nodes []string, links [][2]string, link chaos.Link, format string, args ...any) (*chaos.Deed, error) {
	d := &chaos.Deed{Text: fmt.Sprintf(format, args...), Nodes: nodes}
	d.End = func(context.Context) error {
		before := f.net.hits()
		err := f.net.setAll(links, chaos.Link{})
		f.mu.Lock()
		defer f.mu.Unlock()
		f.met[d.Text] += f.net.hits() - before
		return err
	}
	return d, f.net.setAll(links, link)
}

func names(processes []*chaos.Process) (list []string) {
	for _, p := range processes {
		list = append(list, p.Name)
	}
	return list
}

var errNobody = errors.New("there is nobody to whom it could be done")

// leader does something to the links of the leader with the other masters.
func (f *faults) leader(out, in bool) func(context.Context, *chaos.Cluster) (*chaos.Deed, error) {
	return func(ctx context.Context, c *chaos.Cluster) (*chaos.Deed, error) {
		l := c.Leader(ctx)
		if l == nil {
			return nil, errNobody
		}
		var links [][2]string
		for _, m := range c.Masters {
			if m != l && out {
				links = append(links, [2]string{l.Name, m.Name})
			}
			if m != l && in {
				links = append(links, [2]string{m.Name, l.Name})
			}
		}
		what := map[[2]bool]string{{true, true}: "is cut from the other masters", {true, false}: "hears the other masters and is not heard", {false, true}: "is heard by the other masters and hears none"}
		return f.deed([]string{l.Name}, links, chaos.Link{Block: true}, "the leader, %s, %s", l.Name, what[[2]bool{out, in}])
	}
}

// members does something to links of the members of a chunk that is being written.
func (f *faults) members(link chaos.Link, text string, links func(c *chaos.Cluster, primary, secondary string) [][2]string) func(context.Context, *chaos.Cluster) (*chaos.Deed, error) {
	return func(ctx context.Context, c *chaos.Cluster) (*chaos.Deed, error) {
		var members []*chaos.Process
		for try := range uint64(50) { // there is none while a chunk is sealed
			if members = c.OpenChunk(ctx, chaos.Root, try); len(members) > 1 || clock.System().Sleep(ctx, 100*time.Millisecond) != nil {
				break
			}
		}
		if len(members) < 2 {
			return nil, errNobody
		}
		p, s := members[0].Name, members[1].Name
		return f.deed([]string{p, s}, links(c, p, s), link, "%s (primary %s, secondary %s)", text, p, s)
	}
}

func primaryAndMasters(c *chaos.Cluster, primary, _ string) [][2]string {
	return between(primary, names(c.Masters)...)
}

func primaryAndSecondary(_ *chaos.Cluster, primary, secondary string) [][2]string {
	return between(primary, secondary)
}

func toSecondary(_ *chaos.Cluster, primary, secondary string) [][2]string {
	return [][2]string{{primary, secondary}}
}

func primaryToAll(c *chaos.Cluster, primary, _ string) [][2]string {
	return toOthers(primary, everybody(c))
}

func primaryToServers(c *chaos.Cluster, primary, _ string) [][2]string {
	return toOthers(primary, names(c.Servers))
}

// toOthers returns the links from one node to the others.
func toOthers(a string, all []string) (links [][2]string) {
	for _, b := range all {
		if a != b {
			links = append(links, [2]string{a, b})
		}
	}
	return links
}

func secondaryAndAll(c *chaos.Cluster, _, secondary string) [][2]string {
	return between(secondary, everybody(c)...)
}

func everybody(c *chaos.Cluster) []string {
	return slices.Concat(names(c.Masters), names(c.Servers), c.Clients())
}

// loss loses packets everywhere.
func (f *faults) loss(_ context.Context, c *chaos.Cluster) (*chaos.Deed, error) {
	var links [][2]string
	all := everybody(c)
	for i := range len(c.Masters) + len(c.Servers) {
		links = append(links, between(all[i], all[i+1:]...)...)
	}
	return f.deed(nil, links, chaos.Link{Loss: 0.1}, "one packet of ten is lost, everywhere")
}

// full fills a chunk server's file system.
func (f *faults) full(context.Context, *chaos.Cluster) (*chaos.Deed, error) {
	return &chaos.Deed{Text: "the file system of " + filepath.Base(f.small.dir) + " is full", Nodes: []string{filepath.Base(f.small.dir)},
		End: func(context.Context) error { return f.small.roomy() }}, f.small.full()
}

// scenarios are all faults one after the other, rounds times, and some time for each.
func (f *faults) scenarios(rounds int) (events []chaos.Event, d time.Duration) {
	cut := chaos.Link{Block: true}
	list := []chaos.Event{
		{Kind: chaos.Partition, For: 4 * time.Second, Do: f.leader(true, true)},
		{Kind: chaos.Partition, For: 5 * time.Second, Do: f.members(cut, "the primary is cut from the masters", primaryAndMasters)},
		{Kind: chaos.Partition, For: 4 * time.Second, Do: f.leader(true, false)},
		{Kind: chaos.Partition, For: 4 * time.Second, Do: f.members(cut, "primary and secondary are cut from each other", primaryAndSecondary)},
		{Kind: chaos.Partition, For: 6 * time.Second, Do: f.members(cut, "the primary hears all, and nobody hears it", primaryToAll)},
		{Kind: chaos.Slow, For: 4 * time.Second, Do: f.members(chaos.Link{BytesPerSecond: 100 << 10}, "a secondary gets 100 KiB/s", toSecondary)},
		{Kind: chaos.Freeze, For: 5 * time.Second, Victim: chaos.Primary},
		{Kind: chaos.Partition, For: 4 * time.Second, Do: f.leader(false, true)},
		{Kind: chaos.Partition, For: 6 * time.Second, Do: f.members(cut, "a secondary is cut from everybody", secondaryAndAll)},
		{Kind: chaos.Partition, For: 8 * time.Second, Do: f.members(cut, "the primary hears the chunk servers, and none of them hears it", primaryToServers)},
		{Kind: chaos.Full, For: 5 * time.Second, Do: f.full},
		{Kind: "loss", For: 6 * time.Second, Do: f.loss},
		{Kind: chaos.Kill, For: time.Second, Victim: chaos.LeaderAndPrimary},
		{Kind: chaos.Freeze, For: 12 * time.Second, Victim: chaos.Primary},
	}
	at := 2 * time.Second
	for round := range rounds {
		for i, e := range list {
			e.At, e.Pick = at, uint64(round*len(list)+i)
			at += e.For + 1500*time.Millisecond
			events = append(events, e)
		}
	}
	return events, at + time.Second
}

// keepEvidence copies the history and the logs of the processes to a folder that stays.
func keepEvidence(t *testing.T, dir string, h *history.History) {
	kept, err := os.MkdirTemp("", "quarry-evidence-*")
	if err != nil {
		t.Error(err)
		return
	}
	var b bytes.Buffer
	if err := h.Write(&b); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(kept, "history.jsonl"), b.Bytes(), 0o644); err != nil {
		t.Error(err)
	}
	logs, _ := filepath.Glob(filepath.Join(dir, "*.log"))
	for _, name := range logs {
		if b, err := os.ReadFile(name); err == nil {
			_ = os.WriteFile(filepath.Join(kept, filepath.Base(name)), b, 0o644) // the history is what counts
		}
	}
	t.Errorf("the history and the logs are in %s", kept)
}

// TestNamespaces has the real processes of a cluster, with its key, on a network of their own
// each, and does to network, processes and a disk what happens to them in a data centre. What
// clients saw is checked, and so are the replicas.
func TestNamespaces(t *testing.T) {
	t.Parallel()
	if !isolated(t, unix.CLONE_NEWNET, "ip", "tc", "nft", "ss") {
		return
	}
	network, err := newNamespaces()
	if err != nil {
		t.Skipf("the network cannot be made: %v", err)
	}
	dir := t.TempDir()
	f := &faults{net: network, small: smallDisk{filepath.Join(dir, "server-4"), 512 << 20}, met: map[string]int{}}
	if err := f.small.mount(); err != nil {
		t.Skipf("a small file system cannot be mounted: %v", err)
	}
	defer unix.Unmount(f.small.dir, unix.MNT_DETACH)
	rounds := 1
	if long() {
		rounds = 6
	}
	events, d := f.scenarios(rounds)
	var seen *history.History
	report, err := chaos.Run(t.Context(), chaos.Config{
		Program: program, Dir: dir, Clock: clock.System(), Seed: 20, Duration: d, Events: events, Network: network,
		Key: []byte("a key of this test's cluster"), Keep: func(h *history.History) { seen = h },
	})
	if err != nil {
		t.Fatal(err)
	}
	if report.Violations > 0 {
		keepEvidence(t, dir, seen)
	}
	for _, v := range report.ViolationList {
		b, _ := json.Marshal(v.Ops)
		t.Errorf("%s: %s: %s\n%s", v.Rule, v.Subject, v.Text, b)
	}
	for _, c := range report.Checks {
		t.Logf("%s: %s; %s %s", c.Name, c.Verdict, c.Looked, c.Reasons)
		if c.Verdict != chaos.Clean {
			t.Errorf("check %s: %s %s", c.Name, c.Verdict, c.Reasons)
		}
	}
	skipped := 0
	for _, e := range report.FaultList {
		t.Logf("%6.1f s to %6.1f s: %s; %.1f s without an answer %s", float64(e.BeginMS)/1000, float64(e.EndMS)/1000, e.Text, float64(e.UnavailableMS)/1000, e.Skipped)
		if e.Skipped != "" {
			skipped++
		}
	}
	idle := 0
	for text, packets := range f.met {
		t.Logf("%6d packets: %s", packets, text)
		if packets == 0 { // the work has just gone on elsewhere
			idle++
		}
	}
	if idle > len(f.met)/4 {
		t.Errorf("%d of %d faults did nothing to any packet", idle, len(f.met))
	}
	t.Logf("%d operations, %d acknowledged, %d unknown, the longest time without an answer %d ms",
		report.Operations, report.Acknowledged, report.Unknown, report.LongestUnavailableMS)
	if skipped > len(events)/4 || report.Acknowledged < 500 {
		t.Errorf("too little has happened: %d of %d faults were not done, %d operations were acknowledged", skipped, len(events), report.Acknowledged)
	}
}
