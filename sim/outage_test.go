package sim

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry/client"
)

// outages are faults of an open chunk's primary that nobody is told of.
var outages = []struct {
	name  string
	begin func(c *Cluster, primary, writer *Host) (heal func())
}{
	{"dead", func(c *Cluster, primary, _ *Host) func() { primary.PowerOff(); return primary.Start }},
	{"mute", func(c *Cluster, primary, writer *Host) func() { return mute(c, primary, append(c.Hosts(), writer)) }},
	{"mute to servers", func(c *Cluster, primary, _ *Host) func() { return mute(c, primary, c.Servers) }},
	{"mute to clients", func(c *Cluster, primary, writer *Host) func() { return mute(c, primary, []*Host{writer}) }},
	{"deaf to servers", func(c *Cluster, primary, _ *Host) func() { return deaf(c, primary, c.Servers) }},
	{"hung disk", func(c *Cluster, primary, _ *Host) func() {
		f := healthyDisk
		f.Hangs = true
		primary.disk.Set(f)
		return func() { primary.disk.Set(healthyDisk) }
	}},
}

// mute has nothing get through from a host to others.
func mute(c *Cluster, h *Host, others []*Host) (heal func()) {
	return (&nemesis{c: c}).between([]*Host{h}, others, false, block)
}

// deaf has nothing get through to a host.
func deaf(c *Cluster, h *Host, others []*Host) (heal func()) {
	return (&nemesis{c: c}).between(others, []*Host{h}, false, block)
}

const (
	// outageLasts is how long an outage lasts, and outageMax how long no append of a client may be
	// acknowledged.
	outageLasts = 14 * time.Second
	outageMax   = 3 * time.Second
)

// TestOutages: whatever befalls a primary that makes it useless, appends go on elsewhere within 3 s. A
// quarter of -seeds clusters suffer each outage, at most 12.
func TestOutages(t *testing.T) {
	for _, o := range outages {
		t.Run(o.name, func(t *testing.T) {
			var took []time.Duration
			for seed := range uint64(min(max(1, *seedsFlag/4), 12)) {
				cryptotest.SetGlobalRandom(t, seed)
				synctest.Test(t, func(t *testing.T) {
					took = append(took, outage(t, seed, o.begin))
				})
			}
			slices.Sort(took)
			t.Logf("without an acknowledged append: median %v, longest %v", took[len(took)/2], took[len(took)-1])
			if longest := took[len(took)-1]; longest > outageMax {
				t.Errorf("nothing was acknowledged for %v", longest)
			}
		})
	}
}

// outage runs a cluster with an appender, breaks the primary, and returns the longest time without an
// acknowledged append.
func outage(t *testing.T, seed uint64, begin func(c *Cluster, primary, writer *Host) (heal func())) (longest time.Duration) {
	w := NewWorld(seed)
	c := NewCluster(w, 3, 5, NewLog(w, nil))
	defer w.Close()
	defer c.Close()
	ctx, cancel := newNodeClock(w, nil).WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.Start(ctx))
	m, err := c.Client(ctx, 1, client.Options{Patience: time.Minute})
	must(err)
	defer m.Close()
	if !c.whole(nil, time.Minute) {
		t.Fatal("the cluster is not whole")
	}
	for i := range seed % 20 { // so that it does not befall the same servers every time
		f, err := m.Create(ctx, fmt.Sprint("/", i))
		must(err)
		must(f.Close())
		_, err = m.Append(ctx, fmt.Sprint("/", i), []byte("record"))
		must(err)
	}
	f, err := m.Create(ctx, "/log")
	must(err)
	must(f.Close())
	end := w.Now().Add(time.Duration(1000+137*seed%1000)*time.Millisecond + outageLasts)
	var heal func()
	last := w.Now()
	for i := 0; w.Now() < end; i++ {
		_, err := m.Append(ctx, "/log", fmt.Appendf(nil, "record %d", i))
		must(err)
		longest = max(longest, w.Now().Sub(last))
		last = w.Now()
		if heal == nil && end.Sub(last) < outageLasts {
			longest, heal = 0, begin(c, c.watch.tailPrimary(), m.host)
		}
		w.Sleep(time.Millisecond)
	}
	heal()
	return longest
}

// tailPrimary returns the primary of the chunk that was opened last.
func (o *observer) tailPrimary() *Host {
	o.mu.Lock()
	defer o.mu.Unlock()
	c := o.chunks[o.probed[len(o.probed)-1]]
	return o.at(c.versions[c.highest].members[0])
}
