package chunkserver

import (
	"context"
	"errors"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/chunk"
)

const (
	scrubStep  = 1 << 20   // bytes verified at a time
	scrubPause = time.Hour // between two rounds over a disk, at least
	scrubPage  = 256       // replicas looked up at a time

	purgeEvery = time.Minute
	purgeStep  = 64 // replicas purged at a time
	// trashKeep is how long dropped replicas stay on the disk, if nobody wants their space.
	trashKeep = 24 * time.Hour
)

// scrub reads everything at rest, again and again, and compares it with its checksums, at
// the configured rate.
func (s *Server) scrub(ctx context.Context, d *chunk.Store) {
	for {
		for from := quarry.Handle(1); ; {
			page := d.Inventory(from, ^quarry.Handle(0), scrubPage)
			for i := range page {
				if page[i].Status == quarry.ReplicaGood && page[i].Sealed() && s.scrubOne(ctx, d, page[i].Handle) != nil {
					return
				}
			}
			if len(page) < scrubPage {
				break
			}
			from = page[len(page)-1].Handle + 1
		}
		if s.cfg.Clock.Sleep(ctx, scrubPause) != nil {
			return
		}
	}
}

// scrubOne verifies one replica. It returns an error only when the server stops.
func (s *Server) scrubOne(ctx context.Context, d *chunk.Store, h quarry.Handle) error {
	for at, done := int64(0), false; !done; {
		next, end, err := d.Verify(h, at, scrubStep)
		switch {
		case errors.Is(err, quarry.Corrupt):
			r, findErr := s.find(h)
			if r != nil {
				r.corrupt(err)
				r.release()
			} else if findErr != nil {
				s.cfg.Logger.Warn("a corrupt replica cannot be reported", "chunk", h, "error", findErr)
			}
			return ctx.Err()
		case err != nil:
			return ctx.Err() // dropped meanwhile, or the disk is retired
		}
		wait := time.Duration(float64(max(next-at, 1)) / float64(s.cfg.ScrubBytesPerSecond) * float64(time.Second))
		if err := s.cfg.Clock.Sleep(ctx, wait); err != nil {
			return err
		}
		at, done = next, end
	}
	return nil
}

// purge empties a disk's trash of what has been there long enough.
func (s *Server) purge(ctx context.Context, d *chunk.Store) {
	for s.cfg.Clock.Sleep(ctx, purgeEvery) == nil && d.Err() == nil {
		before := s.cfg.Clock.Wall().Add(-trashKeep)
		for n, err := purgeStep, error(nil); n == purgeStep && ctx.Err() == nil; {
			if n, _, err = d.Purge(before, purgeStep); err != nil {
				s.cfg.Logger.Warn("the trash cannot be emptied", "disk", d.Identity().Disk, "error", err)
			}
		}
	}
}
