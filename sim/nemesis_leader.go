package sim

import (
	"slices"
	"time"

	"github.com/quarryfs/quarry"
)

// Faults about leaders that follow one another: what one has granted or told must hold when the
// next one leads, and one that does not know that it leads no more may grant and tell nothing.

// led returns an open chunk's primary, the shard of that chunk and a master that takes itself for its
// leader; shard 0 if none is known.
func (o *observer) led(which int) (primary, leader *Host, shard quarry.ShardID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range o.probed {
		h := o.probed[(i+which)%len(o.probed)]
		c := o.chunks[h]
		if c.sealed() || c.versions[c.highest] == nil {
			continue
		}
		shard, primary = o.owner(h.Slot()), o.at(c.versions[c.highest].members[0])
		for _, m := range o.masters {
			if p := m.life(); p != nil && p.master.Load() != nil && p.master.Load().Leads(shard) {
				return primary, m, shard
			}
		}
	}
	return nil, nil, 0
}

// leaderHeld has a leader stand still until another one leads, apart from everybody but the
// primary of one of its chunks and some clients. When it comes to itself it takes itself for the
// leader, and nobody but those can tell it anything.
func (n *nemesis) leaderHeld(time.Duration) func() {
	primary, leader, shard := n.c.watch.led(n.r.IntN(probedMax))
	if shard == 0 || !n.claim(leader) {
		return nil
	}
	side := []*Host{leader, primary}
	for _, h := range n.clients {
		if n.r.IntN(3) == 0 {
			side = append(side, h)
		}
	}
	others := slices.DeleteFunc(n.all(), func(h *Host) bool { return slices.Contains(side, h) })
	still, more := time.Duration(3500+n.r.IntN(3500))*time.Millisecond, time.Duration(1000+n.r.IntN(2500))*time.Millisecond
	n.tell("%s, which leads shard %d, stands still for %v, and %v are apart from the others for %v more", leader.name, shard, still, names(side), more)
	heal := n.between(side, others, true, block)
	n.c.watch.awake(leader, leader.Hold(still))
	return func() {
		n.wait(still + more)
		heal()
		n.give(leader)
	}
}

// primaryBehind has another master lead the shard of an open chunk, and at the same time lets
// nobody reach the chunk's primary any more, who can tell that at once: what is sealed then is
// sealed by a leader who has granted the primary nothing.
func (n *nemesis) primaryBehind(time.Duration) func() {
	primary, leader, shard := n.c.watch.led(n.r.IntN(probedMax))
	if shard == 0 || !n.claim(primary) {
		return nil
	}
	to := n.follower(leader)
	if to == nil {
		n.give(primary)
		return nil
	}
	others := slices.DeleteFunc(n.all(), func(h *Host) bool { return h == primary })
	more := time.Duration(1500+n.r.IntN(3000)) * time.Millisecond
	n.tell("%s is to lead shard %d, and connections of %s, the primary of an open chunk, break for %v", to.name, shard, primary.name, more)
	go n.c.moveLeadership(shard, to)
	heal := n.between([]*Host{primary}, others, true, func(l *Link) { l.Reset = 1 })
	for _, h := range others {
		n.c.net.Break(primary, h)
	}
	return func() {
		n.wait(more)
		heal()
		n.give(primary)
	}
}

// follower draws a master that is not the leader; nil if there is none.
func (n *nemesis) follower(leader *Host) *Host {
	others := slices.DeleteFunc(n.c.fleet.Members(), func(h *Host) bool { return h == leader })
	if len(others) == 0 {
		return nil
	}
	return n.any(others)
}

// jump moves a host's time of day. Of a leader that is soon followed by another one the time
// mostly jumps ahead: what it logs must not have made anything older.
func (n *nemesis) jump(time.Duration) func() {
	d := time.Duration(n.r.Int64N(int64(96*time.Hour))) - 48*time.Hour
	h, soon := n.any(n.all()), time.Duration(200+n.r.IntN(1200))*time.Millisecond
	_, leader, shard := n.c.watch.led(n.r.IntN(probedMax))
	to := n.follower(leader)
	if leader == nil || to == nil || n.r.IntN(3) == 0 {
		n.tell("the time of day of %s jumps by %v", h.name, d)
		h.clock.JumpWall(d)
		return func() {}
	}
	if h = leader; n.r.IntN(4) > 0 {
		d = d.Abs()
	}
	n.tell("the time of day of %s, which leads shard %d, jumps by %v, and %s follows it after %v", h.name, shard, d, to.name, soon)
	h.clock.JumpWall(d)
	n.healing.Go(func() {
		if n.wait(soon) {
			n.c.moveLeadership(shard, to)
		}
	})
	return func() {}
}

// nameAndPower has the power of all masters fail some milliseconds after a name was changed, when
// its client has the answer, and disks take long for what they sync.
func (n *nemesis) nameAndPower(d time.Duration) func() {
	d = min(d, 3*time.Second)
	var heals []func()
	hit := make(chan struct{})
	after := time.Duration(1+n.r.IntN(20)) * time.Millisecond
	a := &aim{what: "name changed", skip: n.r.IntN(3), strike: func(p *process, _ []quarry.Member) {
		w := p.host.w
		w.schedule(w.Now().Add(after), mix("name and power"), nil, func() {
			for _, h := range n.c.masters() {
				if n.claim(h) {
					heals = append(heals, n.crash(h, true, d))
				}
			}
			close(hit)
		})
	}}
	slow := DiskFaults{SyncMin: 30 * time.Millisecond, SyncMax: 200 * time.Millisecond}
	for _, h := range n.c.masters() {
		h.disk.Set(slow)
	}
	end := n.c.watch.aimAt(a)
	return func() {
		for more := aimTime; more > 0 && n.wait(probeEvery); more -= probeEvery {
			select {
			case <-hit:
				more = 0
			default:
			}
		}
		end()
		n.c.w.Sleep(2 * after) // it may have been a name just now
		for _, h := range n.c.masters() {
			h.disk.Set(healthyDisk)
		}
		select {
		case <-hit:
			n.wait(d)
		default:
		}
		for _, heal := range heals {
			heal()
		}
	}
}
