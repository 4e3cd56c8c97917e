package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/clock"
)

// DrillConfig says on which cluster a failover drill is done. All but the last two must be set.
type DrillConfig struct {
	Files   client.FileSystem
	Masters quarry.Master // routed to whoever leads
	Clock   clock.Clock
	Shard   quarry.ShardID
	// Runs is how often the leadership is handed over.
	Runs int
	// Tell, if set, is told of each handover or outage when it is over.
	Tell func(Outage)
}

// Outage is a time in which clients' writes were not accepted.
type Outage struct {
	From quarry.NodeID `json:"from"` // who led before; 0: not known
	To   quarry.NodeID `json:"to"`   // who leads now
	// TransferMS is how long the handover took, as the leader that was asked says; 0 if nobody
	// was asked.
	TransferMS float64 `json:"transfer_ms,omitempty"`
	// PauseMS is the longest time between two writes that were accepted.
	PauseMS float64 `json:"pause_ms"`
	// At is when it began, as people tell the time.
	At time.Time `json:"at"`
}

// Drilled is what a drill has come to.
type Drilled struct {
	Outages      []Outage `json:"outages"`
	MedianMS     float64  `json:"median_ms"`
	LongestMS    float64  `json:"longest_ms"`
	Acknowledged int      `json:"acknowledged"` // writes that were accepted
	Unknown      int      `json:"unknown"`      // writes whose outcome is not known
	Refused      int      `json:"refused"`      // writes that failed
	Lost         []string `json:"lost"`         // files that were acknowledged and are not there, at most 20
}

const (
	// drillWriters write small files all the time, each the next one when the last is accepted.
	drillWriters = 4
	// drillPause is how long a writer pauses between two writes.
	drillPause = 2 * time.Millisecond
	// calmBefore and calmAfter are how long writes go on before and after a handover.
	calmBefore, calmAfter = 500 * time.Millisecond, 500 * time.Millisecond
	// drillFiles is how many files a writer writes before it looks whether all are there, and
	// removes them.
	drillFiles = 400
	// drillFilesMax is how many it writes at most while others look.
	drillFilesMax = 20 * drillFiles
	// outageMin is the shortest pause that counts as an outage while a drill watches.
	outageMin = 250 * time.Millisecond
	// restTime bounds the looking at what was written at the end.
	restTime = time.Minute
	// votersTime is how long the masters may take to agree on who leads.
	votersTime = 30 * time.Second
	lostMax    = 20
	// outagesMax bounds the outages that a drill remembers one by one.
	outagesMax = 10_000
)

// Drill hands the leadership of a shard over, again and again, and measures how long clients
// notice: the longest time in which none of several that write small files all the time is
// answered. In the end the first leader leads again, and every file that was acknowledged must
// be there. It fails if nobody else can lead.
func Drill(ctx context.Context, cfg DrillConfig) (*Drilled, error) {
	d, err := beginDrill(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	first, _, err := d.leader(ctx)
	for i := 0; err == nil && i < cfg.Runs && ctx.Err() == nil; i++ {
		err = d.handOver(ctx)
	}
	if first != 0 && ctx.Err() == nil {
		_ = cfg.Masters.Transfer(ctx, &quarry.TransferRequest{Shard: cfg.Shard, To: first}) // as it was, if it may be
	}
	return d.end(ctx, err)
}

// Watch measures the outages that somebody else makes, by killing the leader say, until ctx ends.
func Watch(ctx context.Context, cfg DrillConfig) (*Drilled, error) {
	d, err := beginDrill(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	leader, _, err := d.leader(ctx)
	for err == nil && cfg.Clock.Sleep(ctx, outageMin/2) == nil {
		pause, at := d.pauses.take()
		if pause < outageMin {
			continue
		}
		o := Outage{From: leader, PauseMS: millis(pause), At: at}
		if now, _, err := d.leader(ctx); err == nil {
			o.To, leader = now, now
		}
		d.add(o)
	}
	return d.end(ctx, err)
}

// drill is a drill under way.
type drill struct {
	cfg    *DrillConfig
	root   string                                      // the directory in which it writes
	mkdir  func(ctx context.Context, dir string) error // one that exists is a success
	stop   context.CancelFunc
	work   sync.WaitGroup
	pauses pauses

	looking sync.Mutex // held by the writer that looks at what it wrote

	mu  sync.Mutex
	out Drilled
}

func beginDrill(ctx context.Context, cfg *DrillConfig) (*drill, error) {
	d := &drill{cfg: cfg, root: fmt.Sprintf("/quarry-drill-%08x", rand.Uint32())}
	d.out.Outages, d.out.Lost = []Outage{}, []string{}
	d.pauses.clk, d.pauses.last = cfg.Clock, cfg.Clock.Now()
	d.mkdir = cfg.Files.MkdirAll
	if err := d.place(ctx); err != nil {
		return nil, err
	}
	if err := d.mkdir(ctx, d.root); err != nil {
		return nil, err
	}
	// The writers do not end with ctx but behind the last outage, and look at what they wrote.
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	d.stop = stop
	for i := range drillWriters {
		d.work.Go(func() { d.write(working, fmt.Sprintf("%s/%d", d.root, i)) })
	}
	return d, nil
}

// place has the directories of the drill made in a slot of the shard that is drilled. No file
// lives in the root group.
func (d *drill) place(ctx context.Context) error {
	files, ok := d.cfg.Files.(interface {
		MkdirIn(ctx context.Context, path string, slot quarry.Slot) error
	})
	if !ok || d.cfg.Shard == quarry.RootShard {
		return nil
	}
	t, err := d.cfg.Masters.Topology(ctx)
	if err != nil {
		return err
	}
	for _, s := range t.Shards {
		if s.Shard != d.cfg.Shard || len(s.Slots) == 0 {
			continue
		}
		d.mkdir = func(ctx context.Context, dir string) error {
			err := files.MkdirIn(ctx, dir, s.Slots[0].First)
			if quarry.KindOf(err) == quarry.Exists {
				return nil
			}
			return err
		}
	}
	return nil
}

// write writes one small file after the other into a directory of its own.
func (d *drill) write(ctx context.Context, dir string) {
	after := context.WithoutCancel(ctx)
	written := map[string]bool{} // by name: whether it was acknowledged; false: not known
	made := false
	for number := 0; ctx.Err() == nil; number++ {
		if !made {
			made = d.mkdir(ctx, dir) == nil
		}
		if name := fmt.Sprint(number); made {
			d.note(written, name, d.put(after, dir+"/"+name, name))
		}
		// One looks at a time, so that the others go on writing.
		if n := len(written); n >= drillFilesMax || n >= drillFiles && d.looking.TryLock() {
			if n >= drillFilesMax {
				d.looking.Lock()
			}
			d.look(after, dir, written)
			d.looking.Unlock()
			clear(written)
		}
		_ = d.cfg.Clock.Sleep(ctx, drillPause) // the loop looks at ctx
	}
	d.look(after, dir, written)
	_ = d.cfg.Files.Remove(after, dir) // what stays is empty, or was told of
}

// put writes a small file. It is not given up when the drill ends: its outcome would not be
// known.
func (d *drill) put(ctx context.Context, name, content string) error {
	ctx, cancel := d.cfg.Clock.WithTimeout(ctx, restTime)
	defer cancel()
	_, err := d.cfg.Files.Put(ctx, name, strings.NewReader(content), client.PutOptions{Keep: true})
	return err
}

// note counts a write.
func (d *drill) note(written map[string]bool, name string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch quarry.KindOf(err) {
	case 0:
		written[name] = true
		d.out.Acknowledged++
		d.pauses.accepted()
	case quarry.Unavailable, quarry.Busy, quarry.NoSpace, quarry.Permission, quarry.Invalid:
		d.out.Refused++
	default:
		written[name] = false
		d.out.Unknown++
	}
}

// look compares what was written with what is there, and removes it.
func (d *drill) look(ctx context.Context, dir string, written map[string]bool) {
	ctx, cancel := d.cfg.Clock.WithTimeout(ctx, restTime)
	defer cancel()
	there := map[string]bool{}
	for after, more := "", true; more; {
		page, next, err := d.cfg.Files.List(ctx, dir, after, quarry.ListMax)
		if err != nil {
			d.lose(fmt.Sprintf("%s: what was written cannot be listed: %v", dir, err))
			return
		}
		for _, e := range page {
			there[e.Name()], after = true, e.Name()
		}
		more = next && len(page) > 0
	}
	for name, acknowledged := range written {
		if acknowledged && !there[name] {
			d.lose(dir + "/" + name)
		}
	}
	for name := range there {
		if _, ours := written[name]; !ours {
			d.lose(fmt.Sprintf("%s/%s is there, and was refused or removed before", dir, name))
		}
		_ = d.cfg.Files.Remove(ctx, dir+"/"+name) // what stays is told of by the next look
	}
}

func (d *drill) lose(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.out.Lost) < lostMax {
		d.out.Lost = append(d.out.Lost, what)
	}
}

// leader returns who leads the shard, and who else could.
func (d *drill) leader(ctx context.Context) (leader quarry.NodeID, others []quarry.NodeID, err error) {
	ctx, cancel := d.cfg.Clock.WithTimeout(ctx, votersTime)
	defer cancel()
	for {
		t, err := d.cfg.Masters.Topology(ctx)
		if err != nil {
			return 0, nil, err
		}
		i := slices.IndexFunc(t.Shards, func(s quarry.ShardInfo) bool { return s.Shard == d.cfg.Shard })
		if i < 0 {
			return 0, nil, quarry.Errorf("drill", quarry.NotFound, "", "there is no shard %d", d.cfg.Shard)
		}
		if s := t.Shards[i]; s.Leader != 0 {
			return s.Leader, slices.DeleteFunc(slices.Clone(s.Voters), func(n quarry.NodeID) bool { return n == s.Leader }), nil
		}
		if err := d.cfg.Clock.Sleep(ctx, lookEvery); err != nil {
			return 0, nil, quarry.Errorf("drill", quarry.Unavailable, "", "shard %d has no leader", d.cfg.Shard)
		}
	}
}

// handOver hands the leadership over once and measures what clients notice.
func (d *drill) handOver(ctx context.Context) error {
	from, others, err := d.leader(ctx)
	if err != nil {
		return err
	}
	if len(others) == 0 {
		return quarry.Errorf("drill", quarry.Invalid, "", "only node %d has a vote in shard %d: nobody else can lead", from, d.cfg.Shard)
	}
	// The next one in turn, so that each leads once.
	slices.Sort(others)
	to := others[0]
	for _, n := range others {
		if n > from {
			to = n
			break
		}
	}
	if err := d.cfg.Clock.Sleep(ctx, calmBefore); err != nil {
		return nil
	}
	d.pauses.take()
	began, at := d.cfg.Clock.Now(), d.cfg.Clock.Wall()
	if err := d.cfg.Masters.Transfer(ctx, &quarry.TransferRequest{Shard: d.cfg.Shard, To: to}); err != nil {
		return err
	}
	over := d.cfg.Clock.Now()
	for wait := calmAfter; ; wait = lookEvery { // until writes are accepted again, whatever that takes
		if d.cfg.Clock.Sleep(ctx, wait) != nil {
			return nil
		}
		if d.pauses.lastAccepted() > over {
			break
		}
	}
	pause, _ := d.pauses.take()
	d.add(Outage{From: from, To: to, TransferMS: millis(over.Sub(began)), PauseMS: millis(pause), At: at})
	return nil
}

func (d *drill) add(o Outage) {
	d.mu.Lock()
	if len(d.out.Outages) < outagesMax {
		d.out.Outages = append(d.out.Outages, o)
	}
	d.mu.Unlock()
	if d.cfg.Tell != nil {
		d.cfg.Tell(o)
	}
}

// end ends the writers, has them look at what they wrote, and sums up.
func (d *drill) end(ctx context.Context, err error) (*Drilled, error) {
	d.stop()
	d.work.Wait()
	_ = d.cfg.Files.Remove(context.WithoutCancel(ctx), d.root) // it stays if something in it does
	if err != nil && ctx.Err() == nil {
		return nil, err
	}
	var all []float64
	for _, o := range d.out.Outages {
		all = append(all, o.PauseMS)
	}
	if slices.Sort(all); len(all) > 0 {
		d.out.MedianMS, d.out.LongestMS = all[len(all)/2], all[len(all)-1]
	}
	return &d.out, nil
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// pauses finds the longest time between two writes that were accepted. Safe for use by many
// goroutines.
type pauses struct {
	clk clock.Clock

	mu      sync.Mutex
	last    clock.Instant
	longest time.Duration
	at      time.Time
}

// accepted notes that a write was accepted now.
func (p *pauses) accepted() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clk.Now()
	if d := now.Sub(p.last); d > p.longest {
		p.longest, p.at = d, p.clk.Wall().Add(-d)
	}
	p.last = now
}

// take returns the longest pause that has ended since the last call, and when it began.
func (p *pauses) take() (time.Duration, time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	longest, at := p.longest, p.at
	p.longest = 0
	return longest, at
}

// lastAccepted returns when a write was accepted last.
func (p *pauses) lastAccepted() clock.Instant {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}
