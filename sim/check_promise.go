package sim

import (
	"slices"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

// I1: promised and version never fall, and there is one writable version at a time.
//
// A server that has said that it promises a version obeys no request of a lower one that comes
// after it, for as long as its disk lives. A version has one primary, which takes the role
// once, with one list of members.

// promise is a version that a replica has promised, and since when others know it.
type promise struct {
	version quarry.Version
	since   moment
}

// promised notes that a host has said that its replica promises a version.
func (o *observer) promised(h *Host, handle quarry.Handle, v quarry.Version) {
	key := o.replica(h, handle)
	list := o.promises[key]
	if n := len(list); n > 0 && list[n-1].version >= v {
		return
	}
	o.promises[key] = append(list, promise{v, o.clock})
}

// obeyed judges that a host did what a request of a version asked for.
func (o *observer) obeyed(from moment, h *Host, ref *quarry.ChunkRef, what string) {
	for _, p := range o.promises[o.replica(h, ref.Handle)] {
		if p.since < from && p.version > ref.Version {
			o.violated("I1 promises never fall", "%s obeys %s of version %d of chunk %v, and had promised version %d before",
				h.name, what, ref.Version, ref.Handle, p.version)
			return
		}
	}
}

// over reports whether a host is asked for a replica of a chunk that it has promised a later version
// of, and that nothing needs any more, as far as a master can tell: it may have dropped its replica,
// and its promise with it. What old requests make and write then is garbage that the next inventory finds.
func (o *observer) over(h *Host, ref *quarry.ChunkRef) bool {
	o.mu.Lock()
	list, shard := o.promises[o.replica(h, ref.Handle)], o.owner(ref.Handle.Slot())
	o.mu.Unlock()
	if len(list) == 0 || list[len(list)-1].version <= ref.Version {
		return false
	}
	told, over := false, false
	for _, m := range o.masters {
		p := m.life()
		if p == nil || p.master.Load() == nil {
			continue
		}
		_, _ = p.master.Load().Look(shard, func(v meta.View) error {
			c, err := meta.ChunkOf(v, ref.Handle)
			told, over = true, over || quarry.KindOf(err) == quarry.NotFound || err == nil && c.Freed != 0
			return nil
		})
	}
	return over || !told
}

// meant judges that a request that was obeyed was meant for this incarnation of the server: one
// that is on its way while the server is started again, maybe with another disk, is not.
func (s *observedServer) meant(ref *quarry.ChunkRef, what string) {
	if ref.Target != s.incarnation {
		s.o.violated("N1 requests are for one incarnation", "%s, incarnation %d, obeys %s of chunk %v that is for incarnation %d",
			s.p.host.name, s.incarnation, what, ref.Handle, ref.Target)
	}
}

// created notes that a member has made its replica for a version, or opened it again.
func (o *observer) created(s *observedServer, ref *quarry.ChunkRef) {
	c := o.chunk(ref.Handle)
	c.madeBy = append(c.madeBy, madeBy{leaseKey{s.id, s.incarnation}, ref.Version})
}

// fenced judges and notes what a host says of its fenced replica.
func (o *observer) fenced(h *Host, req *quarry.FenceRequest, reply *quarry.FenceReply) {
	o.promised(h, req.Handle, req.Version)
	if reply.Version != req.Version {
		o.violated("I1 promises never fall", "%s answers a fence of version %d of chunk %v with version %d", h.name, req.Version, req.Handle, reply.Version)
	}
	c := o.chunk(req.Handle)
	if reply.Status != quarry.ReplicaGood {
		o.log.Count("a fenced replica is not good")
		return
	}
	for v, seen := range c.versions {
		for i, m := range seen.members {
			if o.at(m) != h || m.Incarnation != reply.Incarnation || v != reply.LogVersion || seen.disks[i] != h.disk.replaced() {
				continue
			}
			c.fences[m.Server] = true
			if end, _ := c.acked.before(o.clock); reply.DurableLength < end && !c.sealed() {
				o.violated("I2 acknowledged is durable", "%s has %d durable bytes of chunk %v when it is fenced, %d are acknowledged",
					h.name, reply.DurableLength, req.Handle, end)
			}
		}
	}
}

// activated judges that a server took the role of a version's primary.
func (o *observer) activated(req *quarry.ActivateRequest) {
	o.named(req)
	seen := o.chunk(req.Handle).versions[req.Version]
	if seen.members[0].Server != req.Members[0].Server || seen.members[0].Incarnation != req.Members[0].Incarnation || len(seen.members) != len(req.Members) {
		o.violated("I1 one primary", "version %d of chunk %v has the primaries %s and %s", req.Version, req.Handle, name(seen.members[0]), name(req.Members[0]))
	}
}

// named notes the members of a version, as the one that is to be its primary is told them.
func (o *observer) named(req *quarry.ActivateRequest) {
	c := o.chunk(req.Handle)
	c.opened(req.Version)
	if c.versions[req.Version] != nil || len(req.Members) == 0 {
		return
	}
	seen := &seenVersion{members: append([]quarry.Member(nil), req.Members...)}
	for _, m := range seen.members {
		if !slices.Contains(c.madeBy, madeBy{leaseKey{m.Server, m.Incarnation}, req.Version}) {
			o.violated("I1 one primary", "version %d of chunk %v begins with %s, which has not made a replica", req.Version, req.Handle, name(m))
		}
		seen.disks = append(seen.disks, o.at(m).disk.replaced())
	}
	c.versions[req.Version] = seen
	if !slices.Contains(o.probed, req.Handle) {
		o.probed = append(o.probed, req.Handle)
	}
	c.highest = max(c.highest, req.Version)
	if req.Version == 1 && c.ahead() {
		o.log.Count("a chunk that was made ahead is used")
	}
}

// opened notes a writable version of a chunk that a server is told of.
func (c *seenChunk) opened(v quarry.Version) {
	if v > c.openVer {
		c.openVer, c.sealing = v, false
		clear(c.fences)
	}
}

// reopening judges that a version which is to follow a seal begins where that has ended.
func (o *observer) reopening(req *quarry.ReopenRequest) {
	c := o.chunk(req.Handle)
	if length, known := c.seals[req.Version-1]; !known || length != req.Base {
		o.violated("I6 seals never change", "version %d of chunk %v is to begin at %d, and the seal before it is at %d", req.Version, req.Handle, req.Base, length)
	}
	if req.Version > c.openVer {
		o.log.Count("re-opens")
	}
	c.opened(req.Version)
}

// survivors counts seals for which few members of the version were left.
func (o *observer) survivors(h quarry.Handle) {
	c := o.chunk(h)
	if c.sealing {
		return
	}
	c.sealing = true
	members := 0
	if v := c.versions[c.openVer]; v != nil {
		members = len(v.members)
	}
	switch {
	case members >= 2 && len(c.fences) == 0:
		o.log.Count("seal with no member that went on living")
	case members >= 2 && len(c.fences) == 1:
		o.log.Count("seal with one survivor")
	case len(c.fences) < members:
		o.log.Count("seal without a member")
	default:
		o.log.Count("seal with all members")
	}
}
