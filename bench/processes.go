package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/chaos"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/rpc"
)

// processPort is used on an address of each process's own, below the ports that the system gives
// to connections: a port that anybody may be given could be taken while its process is down.
const processPort = 7400

// loopback is a [chaos.Network] in which nothing can be broken and nothing stands between two
// processes: what is measured on it is theirs alone.
type loopback struct {
	subnet string // the first three numbers of every node's address
	nodes  int
}

var _ chaos.Network = (*loopback)(nil)

// Add implements chaos.Network.
func (l *loopback) Add(string) (listen, advertise string, err error) {
	if l.subnet == "" { // where two runs cannot meet but by chance, and then the process says so
		l.subnet = fmt.Sprintf("127.%d.%d", 16+rand.IntN(200), 1+rand.IntN(250))
	}
	l.nodes++
	address := net.JoinHostPort(fmt.Sprintf("%s.%d", l.subnet, l.nodes), strconv.Itoa(processPort))
	return address, address, nil
}

// Command implements chaos.Network: the program runs as it is.
func (l *loopback) Command(_, program string, args ...string) *exec.Cmd {
	return exec.Command(program, args...)
}

// Client implements chaos.Network.
func (l *loopback) Client(string) (rpc.Network, error) { return rpc.TCP, nil }

// Set implements chaos.Network: it is refused.
func (l *loopback) Set(string, string, chaos.Link) error {
	return quarry.Errorf("network", quarry.Unsupported, "", "nothing can be broken here")
}

// Reset implements chaos.Network: it is refused.
func (l *loopback) Reset(a, b string) error { return l.Set(a, b, chaos.Link{}) }

// Heal implements chaos.Network.
func (l *loopback) Heal() error { return nil }

// Close implements chaos.Network.
func (l *loopback) Close() error { return nil }

// processes starts a cluster whose masters and chunk servers are processes of their own, of this
// very program. Less than 0 servers: none.
func (b *run) processes(ctx context.Context, name string, masters, servers, shards int) (*chaos.Cluster, error) {
	return b.processesOn(ctx, &loopback{}, name, masters, servers, shards)
}

// processesOn is processes on a network.
func (b *run) processesOn(ctx context.Context, network chaos.Network, name string, masters, servers, shards int) (*chaos.Cluster, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.Dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	b.Progress(fmt.Sprintf("starting %d masters with %d shards", masters, shards))
	var masterArgs []string
	if b.DeadAfter > 0 {
		masterArgs = []string{"--dead-after", b.DeadAfter.String()}
	}
	return chaos.StartCluster(ctx, chaos.ClusterConfig{
		Program: program, Dir: dir, Network: network, Clock: b.clock, Masters: masters, Servers: servers, Shards: shards,
		MasterArgs: masterArgs, ServerArgs: []string{"--idle-seal", "1m"},
	})
}

// withClient is processes with a client of the cluster, and what ends both.
func (b *run) withClient(ctx context.Context, name string, masters, servers, shards int) (*chaos.Cluster, *client.FS, func(), error) {
	c, err := b.processes(ctx, name, masters, servers, shards)
	if err != nil {
		return nil, nil, nil, err
	}
	fs, err := c.Client(ctx, "client", client.Options{Log: b.Log})
	if err != nil {
		c.Close()
		return nil, nil, nil, err
	}
	return c, fs, func() {
		fs.Close()
		c.Close()
	}, nil
}

// slots returns a slot of each shard, in the order of their numbers, the root group left out.
func slots(ctx context.Context, masters quarry.Master) (out []quarry.Slot, err error) {
	t, err := masters.Topology(ctx)
	if err != nil {
		return nil, err
	}
	for s := quarry.ShardID(1); int(s) <= len(t.Shards); s++ {
		for _, info := range t.Shards {
			if info.Shard == s && len(info.Slots) > 0 {
				out = append(out, info.Slots[0].First)
			}
		}
	}
	return out, nil
}

// mkdirs makes n directories, name-0 and so on, each in the next shard's slot.
func mkdirs(ctx context.Context, c *chaos.Cluster, fs *client.FS, name string, n int) error {
	at, err := slots(ctx, c.Routed())
	if err != nil {
		return err
	}
	for i := range n {
		if err := fs.MkdirIn(ctx, fmt.Sprintf("%s-%d", name, i), at[i%len(at)]); err != nil {
			return err
		}
	}
	return nil
}

// usage is what a process has used of the machine.
type usage struct {
	cpu       time.Duration // user and system, of all threads
	rss, peak int64         // bytes resident, and the most that there ever were
	files     int           // open descriptors, connections included
}

// tick is the unit in which Linux counts processor time for others to see.
const tick = 10 * time.Millisecond

// usageOf reads what Linux tells of a process.
func usageOf(p *chaos.Process) (usage, error) { return usageAt(p.PID(), p.Name) }

func usageAt(pid int, name string) (u usage, err error) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		return u, quarry.Errorf("bench", quarry.Unsupported, name, "what it uses cannot be read: %w", err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 13 {
		return u, quarry.Errorf("bench", quarry.Unsupported, name, "%sstat has %d fields", dir, len(fields))
	}
	for _, f := range fields[11:13] { // utime and stime
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return u, err
		}
		u.cpu += time.Duration(n) * tick
	}
	status, err := os.ReadFile(dir + "status")
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(status)) {
		field, rest, _ := strings.Cut(line, ":")
		kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64) // other lines have other things
		switch field {
		case "VmRSS":
			u.rss = kib << 10
		case "VmHWM":
			u.peak = kib << 10
		}
	}
	open, err := os.ReadDir(dir + "fd")
	u.files = len(open)
	return u, err
}

// cpuOf returns the processor time of several processes together.
func cpuOf(list []*chaos.Process) (sum time.Duration, err error) {
	for _, p := range list {
		u, err := usageOf(p)
		if err != nil {
			return 0, err
		}
		sum += u.cpu
	}
	return sum, nil
}
