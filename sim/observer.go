package sim

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/sim/newest"
	"github.com/quarryfs/quarry/sim/voters"
)

// observer stands between the network and every server: it is told of each request when it
// comes and of each answer before it goes. The checkers, one for each invariant of
// docs/protocol.md, judge what it is told.
//
// What a server says in an answer was true at some moment between the request and the answer.
// So a checker compares what a request was answered with only with what had been answered
// before that request came; see moment. What a process says after its death is not counted.
type observer struct {
	log     *Log
	host    func(address string) *Host
	masters []*Host
	shards  int

	mu     sync.Mutex
	clock  moment // of the last thing that was observed
	broken []string

	chunks   map[quarry.Handle]*seenChunk
	records  map[recordKey]position
	files    map[quarry.Inode]*fileLength
	promises map[replicaKey][]promise
	durable  map[replicaKey]int64
	leases   map[lease]seenLease
	owners   [quarry.Slots]quarry.ShardID // as the last grant has them
	sessions map[quarry.SessionID]*seenSession
	names    newest.Names
	aimed    []*aim
	happened map[string]int           // how often each of aims
	leaders  map[quarry.ShardID]*Host // those that were last seen to grant for a shard
	leader   *Host                    // the master that was last seen to lead
	probed   []quarry.Handle          // that the prober asks about
	groups   voters.Groups            // of the masters

	outSince, leadsSince map[memberKey]clock.Instant // of masters that were removed; see out
}

// moment orders what is observed.
type moment uint64

// brokenMax bounds the violations that a run tells of.
const brokenMax = 10

// seenChunk is what has been seen of a chunk.
type seenChunk struct {
	file        quarry.Inode
	position    int64
	made        bool
	versions    map[quarry.Version]*seenVersion
	bytes       []byte // as they were shown or acknowledged
	known       []bool // of each of them
	acked       acks
	shown       acks                     // ends that were told without a doubt
	openVer     quarry.Version           // the highest writable version that a server was told of
	seals       map[quarry.Version]int64 // lengths of all seals
	sealVer     quarry.Version           // of the last one
	sealLen     int64
	absent      map[sequence]int64        // records told absent, and the longest seal of which that was said
	fences      map[quarry.ServerID]bool  // good replies to fences
	sealing     bool                      // a seal has been told to a replica
	madeBy      []madeBy                  // the members that have made or opened a replica
	told        acks                      // versions, by masters
	sealedAt    map[quarry.Version]moment // of the first word of each seal
	sealedSince clock.Instant             // the last
	highest     quarry.Version            // of those that have got a primary
	capability  quarry.Capability         // to read it
}

// seenVersion is a writable version of a chunk that has got a primary.
type seenVersion struct {
	members []quarry.Member
	disks   []int // how often each member's disk had been replaced
}

// madeBy is a process that has made a replica for a version.
type madeBy struct {
	leaseKey
	version quarry.Version
}

// sealed reports whether the last version that is known is a seal's.
func (c *seenChunk) sealed() bool { return c.sealVer > c.openVer }

// sequence names a record in a chunk.
type sequence struct {
	session quarry.SessionID
	number  quarry.Sequence
}

// replicaKey names a replica on one disk of a host.
type replicaKey struct {
	host   *Host
	disk   int
	handle quarry.Handle
}

func newObserver(log *Log) *observer {
	return &observer{
		log: log, chunks: map[quarry.Handle]*seenChunk{}, records: map[recordKey]position{},
		files: map[quarry.Inode]*fileLength{}, promises: map[replicaKey][]promise{}, durable: map[replicaKey]int64{},
		leases: map[lease]seenLease{}, sessions: map[quarry.SessionID]*seenSession{}, happened: map[string]int{},
		leaders: map[quarry.ShardID]*Host{}, outSince: map[memberKey]clock.Instant{}, leadsSince: map[memberKey]clock.Instant{},
	}
}

// begin notes that a request has come.
func (o *observer) begin() moment {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clock++
	return o.clock
}

// end has f look at an answer, unless the process that gives it is gone. o.mu is held while
// it does.
func (o *observer) end(p *process, f func()) {
	if p.gone() {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clock++
	f()
}

// violated notes that an invariant does not hold; mu is held.
func (o *observer) violated(invariant, format string, args ...any) {
	text := invariant + ": " + fmt.Sprintf(format, args...)
	o.log.Printf("sim  VIOLATION %s", text)
	if len(o.broken) < brokenMax {
		o.broken = append(o.broken, text)
	}
}

// violations returns what was found.
func (o *observer) violations() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]string(nil), o.broken...)
}

// chunk returns what was seen of a chunk; mu is held.
func (o *observer) chunk(h quarry.Handle) *seenChunk {
	c := o.chunks[h]
	if c == nil {
		c = &seenChunk{versions: map[quarry.Version]*seenVersion{}, absent: map[sequence]int64{}, seals: map[quarry.Version]int64{}, sealedAt: map[quarry.Version]moment{}, fences: map[quarry.ServerID]bool{}}
		o.chunks[h] = c
	}
	return c
}

// replica names a host's replica of a chunk as it is now.
func (o *observer) replica(h *Host, handle quarry.Handle) replicaKey {
	return replicaKey{h, h.disk.replaced(), handle}
}

// at returns the host of a member.
func (o *observer) at(m quarry.Member) *Host {
	return o.host(m.Address)
}

// alone reports whether a chunk that is being written, or whose replicas are not what they
// should be, may be lost with a host's disk.
func (o *observer) alone(h *Host) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range o.chunks {
		if c.sealed() {
			continue // the cluster is whole: a sealed chunk has others
		}
		if v := c.versions[c.openVer]; v != nil && len(v.members) == 1 && o.at(v.members[0]) == h {
			return true
		}
	}
	return false
}

// count counts an answer of a kind that is rare.
func (o *observer) count(what string, err error) {
	if err == nil {
		o.log.Count(what)
		return
	}
	kind := quarry.KindOf(err).Error()
	o.log.Count(what + " refused: " + kind)
}

func name(m quarry.Member) string {
	host, _, _ := strings.Cut(m.Address, ":")
	return host
}

// observedMaster is a master with the observer before it.
type observedMaster struct {
	quarry.Master
	o *observer
	p *process
}

func (o *observer) master(p *process) func(quarry.Master) quarry.Master {
	return func(m quarry.Master) quarry.Master {
		p.watch = o
		p.observeMaster(m)
		return &observedMaster{m, o, p}
	}
}

// stepped has the faults strike that wait for a step that a master's process has reached.
func (p *process) stepped(step string) {
	o := p.watch
	o.log.Count(stepPrefix + step)
	o.reached(stepPrefix+step, p, 0)
}

func (m *observedMaster) Register(ctx context.Context, req *quarry.RegisterRequest) (*quarry.RegisterReply, error) {
	reply, err := m.Master.Register(ctx, req)
	m.o.end(m.p, func() { m.o.count("a server registers", err) })
	if err == nil {
		m.o.reached("registered", m.p, 0)
	}
	return reply, err
}

func (m *observedMaster) Roll(ctx context.Context, req *quarry.RollRequest) (*quarry.RollReply, error) {
	from := m.o.begin()
	reply, err := m.Master.Roll(ctx, req)
	m.o.end(m.p, func() {
		if err != nil {
			m.o.count("roll", err)
			return
		}
		switch first := reply.Chunk.Version == 1; {
		case !first:
			m.o.log.Count("roll to a chunk opened again")
		case req.Last == 0:
			m.o.log.Count("first chunk of a file")
		default:
			m.o.log.Count("roll to another chunk")
		}
		m.o.told(from, &reply.Chunk)
	})
	if err == nil {
		m.o.reached("chunk told", m.p, reply.Chunk.Handle)
	}
	return reply, err
}

func (m *observedMaster) Finish(ctx context.Context, req *quarry.FinishRequest) (*quarry.ChunkReply, error) {
	from := m.o.begin()
	reply, err := m.Master.Finish(ctx, req)
	m.o.end(m.p, func() {
		if err == nil {
			m.o.told(from, &reply.Chunk)
		}
	})
	return reply, err
}

func (m *observedMaster) Chunk(ctx context.Context, req *quarry.ChunkRequest) (*quarry.ChunkReply, error) {
	from := m.o.begin()
	reply, err := m.Master.Chunk(ctx, req)
	m.o.end(m.p, func() {
		if err == nil {
			m.o.told(from, &reply.Chunk)
		}
	})
	return reply, err
}

func (m *observedMaster) Locate(ctx context.Context, req *quarry.LocateRequest) (*quarry.LocateReply, error) {
	from, came := m.o.begin(), m.p.host.w.Now()
	reply, err := m.Master.Locate(ctx, req)
	m.o.end(m.p, func() {
		if err != nil {
			return
		}
		m.o.answered(m.p, came)
		for i := range reply.Chunks {
			m.o.told(from, &reply.Chunks[i])
		}
		m.o.lengthTold(from, &reply.Attr)
	})
	return reply, err
}

func (m *observedMaster) Stat(ctx context.Context, req *quarry.StatRequest) (*quarry.StatReply, error) {
	from, came := m.o.begin(), m.p.host.w.Now()
	reply, err := m.Master.Stat(ctx, req)
	m.o.end(m.p, func() {
		if err == nil {
			m.o.answered(m.p, came)
			m.o.lengthTold(from, &reply.Attr)
		}
	})
	return reply, err
}

func (m *observedMaster) Heartbeat(ctx context.Context, req *quarry.HeartbeatRequest) (*quarry.HeartbeatReply, error) {
	came := m.p.host.w.Now()
	reply, err := m.Master.Heartbeat(ctx, req)
	m.o.end(m.p, func() {
		if err == nil {
			m.o.granted(m.p.host, came, req, reply)
		}
	})
	if err == nil && len(reply.Grants) > 1 {
		m.o.reached("granted", m.p, 0)
	}
	return reply, err
}

// told is what a master tells of a chunk; mu is held.
func (o *observer) told(from moment, c *quarry.Chunk) {
	seen := o.chunk(c.Handle)
	if c.Capability.Rights&quarry.RightRead != 0 {
		seen.capability = c.Capability
	}
	if before, _ := seen.told.before(from); int64(c.Version) < before {
		o.violated("I1 promises never fall", "a master tells version %d of chunk %v, and version %d was told before", c.Version, c.Handle, before)
	}
	seen.told.add(o.clock, int64(c.Version))
	if c.State == quarry.ChunkSealed {
		o.sealTold(c.Handle, c.Version, c.Length, "a master")
	}
	if c.State == quarry.ChunkLost {
		o.violated("I2 acknowledged is durable", "chunk %v is lost", c.Handle)
	}
}
