package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/chaos"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/clock"
)

// What failover kills.
const (
	killMaster = "master" // the one that leads most groups
	killServer = "server" // the primary of an open chunk
	killBoth   = "both"   // at the same instant
	killMute   = "mute"   // such a server, which is not killed: it hears everybody, and nobody hears it
)

const (
	// settleTime is how long a cluster may take to be whole again between two kills.
	settleTime = time.Minute
	// outageMax is how long nothing may be accepted before the measurement is given up.
	outageMax = time.Minute
	// loadAppenders is how many appenders there are to each file while something is killed.
	loadAppenders = 2
)

// probe is something that a client wants done, again and again.
type probe struct {
	name string
	do   func(ctx context.Context, i int) error
}

// failover kills with SIGKILL, or cuts off, again and again, and measures how long it takes until a
// write that began after that is accepted: in each group, and in a file of each shard. Masters and
// chunk servers are processes of their own.
func (b *run) failover(ctx context.Context) ([]Result, error) {
	if !slices.Contains([]string{killMaster, killServer, killBoth, killMute}, b.Kill) {
		return nil, quarry.Errorf("bench", quarry.Invalid, b.Kill, "what can be killed is %s, %s, %s or %s", killMaster, killServer, killBoth, killMute)
	}
	servers, network := 4, chaos.Network(&loopback{})
	switch b.Kill {
	case killMaster:
		servers = -1
	case killMute:
		network = chaos.NewProxies(b.clock)
	}
	defer network.Close()
	c, err := b.processesOn(ctx, network, "failover", 3, servers, b.Shards)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	p, err := b.probing(ctx, c)
	if err != nil {
		return nil, err
	}
	defer p.close()
	probes := p.probes
	times := make([][]float64, len(probes))
	var longest []float64
	var led []float64
	for i := range b.Runs {
		b.Progress(fmt.Sprintf("failover: kill %d of %d", i+1, b.Runs))
		took, groups, err := b.killOnce(ctx, c, network, probes, i)
		if err != nil {
			return nil, err
		}
		for k, d := range took {
			times[k] = append(times[k], d.Seconds())
		}
		longest, led = append(longest, slices.Max(took).Seconds()), append(led, float64(groups))
	}
	all := figure(fmt.Sprintf("failover/%s/longest", b.Kill), "s", longest, nil)
	out := []Result{all, figure(fmt.Sprintf("failover/%s/median", b.Kill), "s", slices.Concat(times...), nil)}
	out[0].Value = all.Max
	for k, p := range probes {
		out = append(out, figure(fmt.Sprintf("failover/%s/%s", b.Kill, p.name), "s", times[k], nil))
	}
	if b.killsMaster() {
		out = append(out, figure(fmt.Sprintf("failover/%s/groups-led-by-the-dead", b.Kill), "groups", led, nil))
	}
	return out, nil
}

// probing is what is asked for while something is killed, and the load beside it.
type probing struct {
	*run
	c       *chaos.Cluster
	probes  []probe
	load    context.Context // ends with close
	end     context.CancelFunc
	work    errgroup.Group // appenders
	clients []*client.FS
}

// probing makes what is asked for: of each shard a small file and, if there are chunk servers, a
// record; of the root group, that a directory gets another parent, for which it has to give a
// turn.
func (b *run) probing(ctx context.Context, c *chaos.Cluster) (*probing, error) {
	p := &probing{run: b, c: c}
	p.load, p.end = context.WithCancel(ctx)
	err := p.rootGroup(ctx)
	for s := 0; err == nil && s < b.Shards; s++ {
		err = p.shard(ctx, s)
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// open opens a client of its own for a probe.
func (p *probing) open(ctx context.Context, name string) (*client.FS, error) {
	fs, err := p.c.Client(ctx, name, client.Options{Log: p.Log})
	if err == nil {
		p.clients = append(p.clients, fs)
	}
	return fs, err
}

// rootGroup makes a directory for each shard, and the root group's probe if there are several: with
// one shard every parent is that shard's own affair.
func (p *probing) rootGroup(ctx context.Context) error {
	fs, err := p.open(ctx, "root")
	if err != nil {
		return err
	}
	if err := mkdirs(ctx, p.c, fs, "/shard", p.Shards); err != nil || p.Shards == 1 {
		return err
	}
	if err := fs.MkdirAll(ctx, "/shard-0/a/moved"); err != nil {
		return err
	}
	if err := fs.MkdirAll(ctx, "/shard-0/b"); err != nil {
		return err
	}
	p.probes = append(p.probes, probe{"root-group", func(ctx context.Context, i int) error {
		from, to := "/shard-0/a/moved", "/shard-0/b/moved"
		if i%2 == 1 {
			from, to = to, from
		}
		err := fs.Rename(ctx, from, to)
		if quarry.KindOf(err) == quarry.NotFound { // a try before, whose outcome was not known, did it
			return nil
		}
		return err
	}})
	return nil
}

// shard makes the probes of one shard, and the appenders to its file.
func (p *probing) shard(ctx context.Context, s int) error {
	dir := fmt.Sprintf("/shard-%d", s)
	fs, err := p.open(ctx, dir)
	if err != nil {
		return err
	}
	p.probes = append(p.probes, probe{fmt.Sprintf("shard-%d", s+1), func(ctx context.Context, i int) error {
		_, err := fs.Put(ctx, fmt.Sprintf("%s/%d", dir, i), strings.NewReader("x"), client.PutOptions{})
		return err
	}})
	if p.Kill == killMaster {
		return nil
	}
	if err := create(ctx, fs, dir+"/log"); err != nil {
		return err
	}
	record := bytes.Repeat([]byte("r"), p.RecordBytes[0])
	appending := func(ctx context.Context, _ int) error {
		_, err := fs.Append(ctx, dir+"/log", record)
		return err
	}
	p.probes = append(p.probes, probe{fmt.Sprintf("file-of-shard-%d", s+1), appending})
	for range loadAppenders {
		p.work.Go(func() error {
			for p.load.Err() == nil {
				_ = appending(p.load, 0) // it goes on whatever fails; the probes are what is measured
			}
			return nil
		})
	}
	return nil
}

// close ends the load and the clients.
func (p *probing) close() {
	p.end()
	_ = p.work.Wait() // what it met is not measured
	for _, fs := range p.clients {
		_ = fs.Close() // the cluster ends, too
	}
}

// killsMaster reports whether a master is killed, perhaps with others.
func (b *run) killsMaster() bool { return b.Kill == killMaster || b.Kill == killBoth }

// silence has a network carry nothing that a process sends.
func silence(c *chaos.Cluster, network chaos.Network, p *chaos.Process) (err error) {
	others := c.Clients()
	for _, o := range slices.Concat(c.Masters, c.Servers) {
		if o != p {
			others = append(others, o.Name)
		}
	}
	for _, o := range others {
		err = errors.Join(err, network.Set(p.Name, o, chaos.Link{Block: true}))
	}
	return err
}

// killOnce kills once and returns how long each probe was not accepted, and how many groups the
// dead master led.
func (b *run) killOnce(ctx context.Context, c *chaos.Cluster, network chaos.Network, probes []probe, i int) ([]time.Duration, int, error) {
	settled, cancel := b.clock.WithTimeout(ctx, settleTime)
	defer cancel()
	victims, groups, err := b.victims(settled, c, uint64(i))
	if err != nil {
		return nil, 0, err
	}
	began := b.clock.Now()
	for _, v := range victims {
		if b.Kill != killMute {
			v.Kill()
		} else if err := silence(c, network, v); err != nil {
			return nil, 0, err
		}
	}
	work, cancel := b.clock.WithTimeout(ctx, outageMax)
	defer cancel()
	took := make([]time.Duration, len(probes))
	err = each(work, len(probes), func(ctx context.Context, k int) error {
		return accepted(ctx, b.clock, probes[k], i, func() { took[k] = b.clock.Now().Sub(began) })
	})
	if err != nil {
		return nil, 0, err
	}
	for _, v := range victims {
		if err := v.Start(); err != nil { // it does nothing to one that runs
			return nil, 0, err
		}
	}
	return took, groups, network.Heal()
}

// accepted asks until it is done.
func accepted(ctx context.Context, clk clock.Clock, p probe, i int, done func()) error {
	for {
		err := p.do(ctx, i)
		if err == nil {
			done()
			return nil
		}
		if e := clk.Sleep(ctx, time.Millisecond); e != nil {
			return fmt.Errorf("bench: %s: nothing was accepted for %v: %w", p.name, outageMax, err)
		}
	}
}

// victims waits until the cluster is whole and returns which processes are to be killed, and how
// many groups the master among them leads.
func (b *run) victims(ctx context.Context, c *chaos.Cluster, pick uint64) (victims []*chaos.Process, groups int, err error) {
	if err := c.Calm(ctx); err != nil {
		return nil, 0, err
	}
	if b.killsMaster() {
		st, err := c.Status(ctx)
		if err != nil {
			return nil, 0, err
		}
		leads := map[quarry.NodeID]int{}
		for _, s := range st.Shards {
			leads[s.Leader]++
		}
		most := slices.MaxFunc(st.Masters, func(a, b quarry.MasterStatus) int { return leads[a.Node] - leads[b.Node] })
		victims, groups = append(victims, c.At(most.Address)), leads[most.Node]
	}
	for b.Kill != killMaster {
		if members := c.OpenChunk(ctx, "/", pick); len(members) > 1 {
			victims = append(victims, members[0])
			break
		}
		if err := b.clock.Sleep(ctx, 10*time.Millisecond); err != nil {
			return nil, 0, errors.New("bench: no file has an open chunk")
		}
	}
	return victims, groups, nil
}
