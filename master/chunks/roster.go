package chunks

import (
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/protocol"
)

const (
	// usableFor is how long after a heartbeat a server may be given chunks.
	usableFor = 2 * time.Second
	// suspectFor is how long a server that a writer complained of is passed over.
	suspectFor = 10 * time.Second
	// recentHalf is the time in which a placement's weight in later ones halves.
	recentHalf = 10 * time.Second
	// serversMax bounds the servers that a leader keeps in memory.
	serversMax = 1 << 16
	// disksMax bounds the disks of one server.
	disksMax = 256
)

// roster is what a leader has heard of the chunk servers, and the leases it has granted
// them. All of it is lost with the leader. Safe for use by many goroutines.
type roster struct {
	clock   clock.Clock
	elected clock.Instant

	mu      sync.Mutex
	leases  protocol.Leases
	servers map[quarry.ServerID]*server
	news    chan struct{} // closed when something was heard that others may wait for
	ended   bool          // the leadership is over: nothing is granted any more
}

// server is what a leader has heard of one chunk server.
type server struct {
	id          quarry.ServerID
	incarnation quarry.Incarnation
	boot        string
	address     string
	rack        string
	disks       []quarry.DiskUsage
	busy        int64
	heard       clock.Instant
	suspect     clock.Instant // passed over until then
	recent      float64       // replicas placed here lately, halved every recentHalf
	recentAt    clock.Instant
	placed      map[quarry.DiskID]int64 // chunks placed since the last heartbeat
}

func newRoster(c clock.Clock) *roster {
	now := c.Now()
	return &roster{
		clock: c, elected: now, leases: protocol.NewLeases(protocol.Instant(now)),
		servers: map[quarry.ServerID]*server{}, news: make(chan struct{}),
	}
}

// hear notes a heartbeat. It reports whether the incarnation was not known, and refuses one
// that is lower than another of its server.
func (r *roster) hear(req *quarry.HeartbeatRequest) (fresh bool, err error) {
	subject := "server"
	if req.Server == 0 || req.Incarnation == 0 || len(req.Disks) > disksMax {
		return false, quarry.Errorf("heartbeat", quarry.Invalid, subject, "a server, an incarnation or a sane number of disks is missing")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.servers[req.Server]
	switch {
	case s == nil && len(r.servers) >= serversMax:
		return false, quarry.Errorf("heartbeat", quarry.Busy, subject, "%d servers are known already", len(r.servers))
	case s == nil:
		s = &server{id: req.Server}
		r.servers[req.Server] = s
	case req.Incarnation < s.incarnation:
		return false, quarry.Errorf("heartbeat", quarry.StaleVersion, subject,
			"incarnation %d of server %d has begun, this is %d", s.incarnation, req.Server, req.Incarnation)
	}
	if fresh = req.Incarnation != s.incarnation; fresh {
		r.leases.Registered(req.Server, req.Incarnation)
		if s.incarnation != 0 && (s.boot != "" && s.boot == req.Boot || off(RestartEndsLease)) {
			// Who registers again from the same boot holds the lock of its folder, so the process
			// before it is gone.
			r.leases.Ended(req.Server, s.incarnation)
		}
		s.incarnation, s.boot, s.suspect = req.Incarnation, req.Boot, 0
	}
	now := r.clock.Now()
	if fresh || now.Sub(s.heard) > usableFor {
		close(r.news)
		r.news = make(chan struct{})
	}
	s.address, s.rack, s.disks, s.busy, s.heard = req.Address, req.Rack, req.Disks, req.BusyBytes, now
	s.placed = nil
	return fresh, nil
}

// grant extends a server's leases from this instant. The caller has confirmed, after the
// heartbeat arrived, that it leads.
func (r *roster) grant(id quarry.ServerID, inc quarry.Incarnation) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := protocol.Instant(r.clock.Now())
	r.leases.Prune(now)
	return !r.ended && r.leases.Heartbeat(id, inc, now)
}

// expect notes that slots are about to come, which another shard may have granted leases for up to
// this instant.
func (r *roster) expect(slots []quarry.SlotRange) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leases.Took(slots, protocol.Instant(r.clock.Now()))
}

// end has nothing granted any more.
func (r *roster) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
}

// decide asks a sealer for the length, with the leases as they are at this instant.
func (r *roster) decide(s *protocol.Sealer) protocol.Decision {
	r.mu.Lock()
	defer r.mu.Unlock()
	return s.Decide(&r.leases, protocol.Instant(r.clock.Now()))
}

// silence returns how long a server has not been heard of: since its last heartbeat, or
// since this leader began.
func (r *roster) silence(id quarry.ServerID) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.clock.Now().Sub(r.lastHeard(id))
}

func (r *roster) lastHeard(id quarry.ServerID) clock.Instant {
	if s := r.servers[id]; s != nil && s.heard > r.elected {
		return s.heard
	}
	return r.elected
}

// present returns the incarnation, address and rack of a server as its heartbeats say them.
func (r *roster) present(id quarry.ServerID) (quarry.Member, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.servers[id]
	if s == nil {
		return quarry.Member{}, false
	}
	return quarry.Member{Server: id, Incarnation: s.incarnation, Address: s.address, Rack: s.rack}, true
}

// alive reports whether this very incarnation was heard of within d.
func (r *roster) alive(id quarry.ServerID, inc quarry.Incarnation, d time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.servers[id]
	return s != nil && s.incarnation == inc && r.clock.Now().Sub(s.heard) <= d
}

// complain has a server passed over for d.
func (r *roster) complain(id quarry.ServerID, inc quarry.Incarnation, d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.servers[id]; s != nil && s.incarnation == inc {
		s.suspect = max(s.suspect, r.clock.Now().Add(d))
	}
}

// sites returns the servers that may be given a chunk.
func (r *roster) sites() []site {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock.Now()
	sites := make([]site, 0, len(r.servers))
	for _, id := range slices.Sorted(maps.Keys(r.servers)) {
		s := r.servers[id]
		if now.Sub(s.heard) > usableFor {
			continue
		}
		sites = append(sites, site{
			Member:    quarry.Member{Server: s.id, Incarnation: s.incarnation, Address: s.address, Rack: s.rack},
			disks:     s.roomy(),
			load:      float64(max(0, s.busy)) / quarry.ChunkBytesMax,
			recent:    s.weight(now),
			suspected: max(0, s.suspect.Sub(now)),
		})
	}
	return sites
}

// roomy returns the disks that have room for one more chunk.
func (s *server) roomy() []diskRoom {
	var disks []diskRoom
	for _, d := range s.disks {
		free := d.Free - s.placed[d.Disk]*quarry.ChunkBytesMax
		if d.Failed == "" && free > quarry.ChunkBytesMax {
			disks = append(disks, diskRoom{d.Disk, free})
		}
	}
	return disks
}

// roomFor reports whether the disk of each member has so many bytes free.
func (r *roster) roomFor(members []quarry.Member, free int64) bool {
	sites := r.sites()
	for _, m := range members {
		i := slices.IndexFunc(sites, func(s site) bool { return s.Server == m.Server })
		if i < 0 || !slices.ContainsFunc(sites[i].disks, func(d diskRoom) bool { return d.disk == m.Disk && d.free >= free }) {
			return false
		}
	}
	return true
}

// weight returns the placements of late, as they count at now.
func (s *server) weight(now clock.Instant) float64 {
	return s.recent * math.Exp2(-float64(now.Sub(s.recentAt))/float64(recentHalf))
}

// took notes that replicas are being made, until heartbeats tell of them.
func (r *roster) took(members []quarry.Member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock.Now()
	for _, m := range members {
		s := r.servers[m.Server]
		if s == nil {
			continue
		}
		s.recent, s.recentAt = s.weight(now)+1, now
		if s.placed == nil {
			s.placed = map[quarry.DiskID]int64{}
		}
		s.placed[m.Disk]++
	}
}

// failedDisks returns the disks that a server says it has retired.
func (r *roster) failedDisks(id quarry.ServerID) (list []quarry.DiskID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.servers[id]; s != nil {
		for _, d := range s.disks {
			if d.Failed != "" {
				list = append(list, d.Disk)
			}
		}
	}
	return list
}

// reachable reports whether a server is alive, and a disk of it has not failed.
func (r *roster) reachable(id quarry.ServerID, disk quarry.DiskID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.servers[id]
	if s == nil || r.clock.Now().Sub(s.heard) > usableFor {
		return false
	}
	for _, d := range s.disks {
		if d.Disk == disk {
			return d.Failed == ""
		}
	}
	return false
}

// full reports whether there are alive servers, and none has room for a chunk.
func (r *roster) full() bool {
	sites := r.sites()
	for i := range sites {
		if len(sites[i].disks) > 0 {
			return false
		}
	}
	return len(sites) > 0
}

// wait returns a channel that is closed when a server comes, comes back, or restarts.
func (r *roster) wait() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.news
}
