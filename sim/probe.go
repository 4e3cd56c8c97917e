package sim

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
)

// The prober asks servers what a client might ask at any instant, and hardly any does at the
// one that matters: where an open chunk ends, and what became of a record, by a seal that the
// replica does not hold. It calls them in their process, without the network, so it sees what
// somebody who is cut off together with a server would see. The checkers judge the answers.

const (
	probeEvery = 100 * time.Millisecond
	// probeKeep is how long a chunk is asked about after it was sealed: beyond the leases.
	probeKeep = 12 * time.Second
	// probedMax bounds the chunks that are asked about: the last that were made.
	probedMax = 40
)

// probe begins to ask about all chunks that are open or were until a while ago, again and
// again until stop is called.
func (o *observer) probe(w *World, masters []*Host, shards int) (stop func()) {
	var probes sync.WaitGroup
	over := make(chan struct{})
	probes.Go(func() {
		for round := 1; ; round++ {
			select {
			case <-over:
				return
			default:
				w.Sleep(probeEvery)
				o.probeAll(w)
				for _, h := range masters {
					if p := h.life(); p != nil && p.master.Load() != nil {
						m := &observedMaster{p.master.Load(), o, p}
						probes.Go(func() { m.probeNames(1) })
						m.lookAtGroups(p.master.Load())
						if round%lookEvery == 0 {
							m.look(p.master.Load(), shards)
						}
					}
				}
			}
		}
	})
	return func() {
		close(over)
		probes.Wait()
	}
}

// probeAll asks about every chunk once.
func (o *observer) probeAll(w *World) {
	o.mu.Lock()
	o.probed = slices.DeleteFunc(o.probed, func(h quarry.Handle) bool {
		c := o.chunks[h]
		return c.sealed() && w.Now().Sub(c.sealedSince) > probeKeep
	})
	o.probed = o.probed[max(0, len(o.probed)-probedMax):]
	list := slices.Clone(o.probed)
	o.mu.Unlock()
	for _, h := range list {
		o.probeChunk(h)
	}
}

// probeChunk asks the members of all versions of a chunk.
func (o *observer) probeChunk(handle quarry.Handle) {
	type question struct {
		s       *observedServer
		version quarry.Version
	}
	var ask []question
	o.mu.Lock()
	c := o.chunk(handle)
	capability, open, seal, length := c.capability, !c.sealed(), c.sealVer, c.sealLen
	for v := quarry.Version(1); len(c.versions) > 0 && v <= c.highest; v += 2 {
		if c.versions[v] == nil {
			continue
		}
		for _, m := range c.versions[v].members {
			if s := o.at(m).serving(); s != nil && s.incarnation == m.Incarnation {
				ask = append(ask, question{s, v})
			}
		}
	}
	o.mu.Unlock()
	if capability == (quarry.Capability{}) {
		return // nobody has been told of the chunk yet
	}
	for _, q := range ask {
		if q.s.p.gone() || q.s.p.host.held() {
			continue
		}
		ref := quarry.ChunkRef{Handle: handle, Version: q.version, Target: q.s.incarnation, Capability: capability}
		q.s.probeEnd(&quarry.EndRequest{ChunkRef: ref})
		if ref.Version, length = seal, length+1; open {
			ref.Version, length = q.version+1, -1
		}
		q.s.probeFate(&quarry.FateRequest{ChunkRef: ref, Length: length, Session: 1, Sequences: []quarry.Sequence{1}})
	}
}

func (s *observedServer) probeEnd(req *quarry.EndRequest) {
	from := s.o.begin()
	reply, err := s.ChunkServer.End(context.Background(), req)
	s.o.end(s.p, func() {
		if err != nil {
			return
		}
		s.o.authorised(from, s, req, reply)
		s.o.log.Count(map[bool]string{true: "probe: an end without a lease", false: "probe: an end with a lease"}[reply.Confirm])
		if !reply.Confirm {
			s.o.endTold(from, s.p.host, req, reply)
		}
	})
}

// probeFate asks by a seal that there is not.
func (s *observedServer) probeFate(req *quarry.FateRequest) {
	_, err := s.ChunkServer.Fate(context.Background(), req)
	s.o.end(s.p, func() {
		if err == nil {
			s.o.violated("I8 absent stays absent", "%s tells fates of chunk %v by seal %d at %d, which it does not hold",
				s.p.host.name, req.Handle, req.Version, req.Length)
		}
	})
}

// serving returns the chunk server that runs on a host; nil if none does.
func (h *Host) serving() *observedServer {
	if p := h.life(); p != nil {
		return p.server.Load()
	}
	return nil
}

// life returns the process that a host has; nil if it has none.
func (h *Host) life() *process {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.process
}

// held reports whether the host's process stands still.
func (h *Host) held() bool {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	return h.heldUntil > h.w.base.Now()
}
