package client

import (
	"context"
	"net"
	"slices"
	"time"

	"github.com/quarryfs/quarry"
)

// replyMax is how long a server may take to answer a small request.
const replyMax = time.Second

// order returns a chunk's members as they are to be asked: those on this machine first, then
// as the master ordered them, and last those that failed lately.
func (f *FS) order(members []quarry.Member) []quarry.Member {
	members = members[:min(len(members), quarry.ReplicasMax)]
	out := make([]quarry.Member, 0, len(members))
	failed := f.health.Avoid(members)
	for rank := range 3 {
		for i := range members {
			if f.rank(&members[i], failed[i]) == rank {
				out = append(out, members[i])
			}
		}
	}
	return out
}

// rank is 0 for a member on this machine, 2 for one that failed lately.
func (f *FS) rank(m *quarry.Member, failed bool) int {
	switch {
	case failed:
		return 2
	case f.here(m):
		return 0
	}
	return 1
}

// here reports whether a member is on this machine.
func (f *FS) here(m *quarry.Member) bool {
	if len(f.opts.Hosts) == 0 {
		return false
	}
	host, _, err := net.SplitHostPort(m.Address)
	return err == nil && slices.Contains(f.opts.Hosts, host)
}

// report tells the master, in the background, of a member with broken bytes, or of one that
// does not do its part.
func (f *FS) report(chunk *quarry.Chunk, m quarry.Member, corrupt bool, why string) {
	f.log.Warn("a replica is reported", "chunk", chunk.Handle, "server", m.Server, "corrupt", corrupt, "why", why)
	select {
	case f.reports <- struct{}{}:
	default:
		return
	}
	req := &quarry.ReportRequest{
		Handle: chunk.Handle, Version: chunk.Version, Corrupt: corrupt,
		Suspects: []quarry.Suspect{{Server: m.Server, Incarnation: m.Incarnation, Why: why}},
	}
	started := f.background(func(ctx context.Context) {
		defer func() { <-f.reports }()
		ctx, cancel := f.clock.WithTimeout(ctx, 10*replyMax)
		defer cancel()
		if err := f.masters.Report(ctx, req); err != nil {
			f.log.Warn("the report was not taken", "chunk", req.Handle, "err", err)
		}
	})
	if !started {
		<-f.reports
	}
}
