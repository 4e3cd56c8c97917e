package chunkserver

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// TestPacer: a copy of ten pieces that take 10 ms each: how long it takes by what it may and must.
func TestPacer(t *testing.T) {
	const piece = 1 << 20
	busy := func(t *traffic) { t.served(clock.Simulated().Now()) }
	for name, c := range map[string]struct {
		most, least int64
		before      func(*traffic) // each piece
		pressed     bool           // at the source
		want        time.Duration
	}{
		"nobody else":                             {200 << 20, 8 << 20, nil, false, 100 * time.Millisecond},
		"the rate is lower":                       {50 << 20, 8 << 20, nil, false, 200 * time.Millisecond},
		"clients here":                            {200 << 20, 8 << 20, busy, false, 400 * time.Millisecond},
		"clients at the source":                   {200 << 20, 8 << 20, nil, true, 400 * time.Millisecond},
		"clients, and it is to be fast":           {200 << 20, 50 << 20, busy, true, 200 * time.Millisecond},
		"clients, the last copy":                  {200 << 20, 200 << 20, busy, true, 100 * time.Millisecond},
		"clients, and the rate is lower":          {20 << 20, 8 << 20, busy, false, 500 * time.Millisecond},
		"clients, of a master that says no least": {200 << 20, 0, busy, true, 100 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &Server{cfg: Config{Clock: clock.Simulated()}}
				start := s.cfg.Clock.Now()
				p := s.pace(c.most, c.least)
				for range 10 {
					if c.before != nil {
						c.before(&s.traffic)
					}
					if err := s.cfg.Clock.Sleep(t.Context(), 10*time.Millisecond); err != nil {
						t.Fatal(err)
					}
					if err := p.piece(t.Context(), piece, c.pressed); err != nil {
						t.Fatal(err)
					}
				}
				if took := s.cfg.Clock.Now().Sub(start); took < c.want-time.Millisecond || took > c.want+time.Millisecond {
					t.Errorf("it took %v, want %v", took, c.want)
				}
			})
		})
	}
}

// TestCopyYields: a copy is slowed down by clients that read or append at its source, and by nobody
// else: neither by another copy nor by clients that have gone.
func TestCopyYields(t *testing.T) {
	const slow = 10 * time.Millisecond // what a read at the source takes
	pause := func(w *world) { _ = w.server("s1").cfg.Clock.Sleep(w.t.Context(), quietTime) }
	for name, c := range map[string]struct {
		before func(w *world, source *Server) // behind appends
		source int
		yields bool
	}{
		"an appender":                {func(*world, *Server) {}, 0, true},
		"an appender at the primary": {func(*world, *Server) {}, 1, true},
		"nobody":                     {func(w *world, _ *Server) { pause(w) }, 0, false},
		"a reader": {func(w *world, source *Server) {
			pause(w)
			w.readFirst(source, false)
		}, 0, true},
		"a copy": {func(w *world, source *Server) {
			pause(w)
			w.readFirst(source, true)
		}, 0, false},
		"a reader who has gone": {func(w *world, source *Server) {
			w.readFirst(source, false)
			pause(w)
		}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				servers, _ := w.three()
				data := w.sealed(servers) // chunkA, 160 KiB, at the first two
				c.before(w, servers[c.source])
				to := servers[2]
				w.damage = func(string, *quarry.ReadReply) { _ = to.cfg.Clock.Sleep(w.t.Context(), slow) }
				start := to.cfg.Clock.Now()
				w.ok(to.Copy(w.t.Context(), &quarry.CopyRequest{
					ChunkRef: w.ref(to, 2), Disk: member(to).Disk, Length: int64(len(data)), WritableVersion: 1, File: 1,
					Sources: members(servers[c.source : c.source+1]), BytesPerSecond: 1 << 30, BytesPerSecondLeast: 1 << 20,
				}))
				took := to.cfg.Clock.Now().Sub(start)
				if yielded := took >= (1+yieldShare)*slow; yielded != c.yields {
					t.Errorf("it took %v, and yielded: %v, want %v", took, yielded, c.yields)
				}
			})
		})
	}
}

// readFirst reads the first byte of the sealed chunk, as a client or as a part of a copy.
func (w *world) readFirst(s *Server, copying bool) {
	w.t.Helper()
	_, err := s.Read(w.t.Context(), &quarry.ReadRequest{ChunkRef: w.ref(s, 2), Length: 1, Validated: true, Copying: copying})
	w.ok(err)
}
