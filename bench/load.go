package bench

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
)

const gib = 1 << 30

// cell is a point at which a load is measured.
type cell struct {
	Clients, Servers, RecordBytes int
}

// round is one run at one point.
type round struct {
	cell
	Run  int    // the first, -1, does not count
	Root string // the directory of everything
	Dir  string // the round's own, which is there, empty, and removed afterwards
	// Operations is how many operations all clients do together; 0: as many as the configuration says.
	Operations int
	// Alone is the only kind of operations that is done; "": all are.
	Alone string
}

// load is what clients do to a cluster, in one phase or several that follow each other.
type load struct {
	name    string
	prepare func(ctx context.Context, s *scene) error          // once for each cluster; or nil
	begin   func(ctx context.Context, s *scene, r round) error // before each round; or nil
	takes   func(r round) int64                                // how many bytes a round writes to the disk, about; nil: few
	phases  []phase
}

// phase is a part of a load that is measured by itself.
type phase struct {
	name string // "" if it is the only one
	unit string // what is counted; "": bytes are
	// work is what client k does.
	work func(ctx context.Context, fs *client.FS, r round, k int, t *tally) error
	// after tells more of what was done here, when it is no longer measured; or nil.
	after func(ctx context.Context, masters []string, t *tally) error
	// bare is what the other side does for all clients; nil: there is none.
	bare func(ctx context.Context, s *scene, r round, t *tally) error
}

// points are where a verb is measured: everywhere between the lists, the servers outermost, because
// each number of them is a cluster of its own.
func (b *run) points() (out []cell) {
	for _, s := range b.Servers {
		for _, r := range b.RecordBytes {
			for _, c := range b.Clients {
				out = append(out, cell{c, s, r})
			}
		}
	}
	return out
}

// measured are the samples of one phase at one point: Quarry's, and the bare program's.
type measured [2][]sample

// measure runs a verb's load at all points, again and again, and Quarry and the bare program in turn
// each time; once more than is counted, for what is slow only the first time.
func (b *run) measure(ctx context.Context) ([]Result, error) {
	cells, l := b.points(), b.verb.load(b)
	if len(cells) > pointsMax {
		return nil, quarry.Errorf("bench "+b.verb.Name, quarry.Invalid, "", "the lists have %d points in common, at most %d can be measured in one run", len(cells), pointsMax)
	}
	samples := make([][]measured, len(l.phases)) // of each phase, of each point
	for i := range samples {
		samples[i] = make([]measured, len(cells))
	}
	for i := -1; i < b.Runs; i++ {
		for n, c := range cells {
			s, err := b.at(ctx, c.Servers, l)
			if err != nil {
				return nil, err
			}
			b.Progress(fmt.Sprintf("%s: run %d of %d, point %d of %d", l.name, i+1, b.Runs, n+1, len(cells)))
			err = b.round(ctx, s, l, c, i, func(phase, side int, x sample) {
				samples[phase][n][side] = append(samples[phase][n][side], x)
			})
			if err != nil {
				return nil, fmt.Errorf("%s with %d clients: %w", l.name, c.Clients, err)
			}
		}
	}
	var out []Result
	for i, p := range l.phases {
		for n, c := range cells {
			out = append(out, b.figures(l, p, c, &samples[i][n])...)
		}
	}
	return out, nil
}

// round does one run of a load at one point. Which side is first changes from run to run.
func (b *run) round(ctx context.Context, s *scene, l load, c cell, run int, note func(phase, side int, x sample)) error {
	r := round{cell: c, Run: run, Root: s.root, Dir: fmt.Sprintf("%s/%s-%d-%d-%d", s.root, l.name, c.Clients, c.RecordBytes, run+1)}
	if l.takes != nil {
		if err := b.makeRoom(ctx, s, l.takes(r)); err != nil {
			return err
		}
	}
	if err := s.fs.Mkdir(ctx, r.Dir); err != nil {
		return err
	}
	bare := s.bareDir(r)
	if err := os.MkdirAll(bare, 0o755); err != nil {
		return quarry.Errorf("bench", quarry.Internal, bare, "%w", err)
	}
	defer os.RemoveAll(bare) // all at the end: removing files is no part of writing them
	if l.begin != nil {
		if err := l.begin(ctx, s, r); err != nil {
			return err
		}
	}
	for i, p := range l.phases {
		for side := range 2 {
			if side = (side + run&1) % 2; side == 1 && p.bare == nil {
				continue
			}
			if b.Cold {
				if err := s.forget(); err != nil {
					return err
				}
			}
			t := newTally(b.clock)
			at := s
			if side == 1 && s.single != nil {
				at = s.single
			}
			x, err := measure(ctx, b.clock, func(ctx context.Context) error {
				if side == 1 {
					return p.bare(ctx, s, r, t)
				}
				return s.clients(ctx, l, i, r, t)
			})
			if err == nil && p.after != nil {
				err = p.after(ctx, at.masters, t)
			}
			if err != nil {
				return err
			}
			x.kinds, x.away, x.cpu = t.kinds, t.away, x.cpu+t.away
			if run >= 0 {
				note(i, side, x)
			}
		}
	}
	return s.fs.RemoveAllNow(ctx, r.Dir)
}

// clients has all clients do their part of a phase, those of this process or the workers'.
func (s *scene) clients(ctx context.Context, l load, phase int, r round, t *tally) error {
	if s.team != nil {
		return s.team.do(ctx, job{phase, r}, t)
	}
	return each(ctx, r.Clients, func(ctx context.Context, k int) error { return l.phases[phase].work(ctx, s.fs, r, k, t) })
}

// bareDir is the folder of the bare program in a round.
func (s *scene) bareDir(r round) string { return filepath.Join(s.bare, filepath.Base(r.Dir)) }

// quantile is a part of all operations that took no longer.
type quantile struct {
	name string
	part float64
}

// quantiles are what is told of how long operations took.
var quantiles = [...]quantile{{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}, {"max", 1}}

// figures makes the figures of one phase at one point: rates and processor time, and how long
// operations took if that was looked at.
func (b *run) figures(l load, p phase, c cell, m *measured) (out []Result) {
	prefix := fmt.Sprintf("%s/%d", l.name, c.Clients)
	if len(b.Servers) > 1 {
		prefix += fmt.Sprintf("/%d-servers", c.Servers)
	}
	if len(b.RecordBytes) > 1 {
		prefix += fmt.Sprintf("/%d-bytes", c.RecordBytes)
	}
	add := func(kind, what, unit string, of func(sample) float64) {
		var parts []string
		for _, s := range []string{prefix, p.name, kind, what} {
			if s != "" {
				parts = append(parts, s)
			}
		}
		r := figure(strings.Join(parts, "/"), unit, numbers(m[0], of), numbers(m[1], of))
		r.Verb, r.What, r.Clients, r.Servers, r.RecordBytes = l.name, strings.Join(parts[1:], "/"), c.Clients, c.Servers, c.RecordBytes
		if len(b.Masters) > 0 {
			r.Servers = 0 // not known
		}
		out = append(out, r)
	}
	cpu := "cpu"
	if len(b.Masters) > 0 {
		cpu = "cpu-of-clients"
	}
	p.kinds(m, add)
	cost := func(name string, of func(sample) time.Duration) {
		perByte := func(s sample) float64 { return of(s).Seconds() / (float64(s.all().Bytes) / gib) }
		if p.unit == "" {
			add("", name, "s/GiB", perByte)
			return
		}
		add("", name, "us/"+strings.TrimSuffix(p.unit, "s"), func(s sample) float64 { return of(s).Seconds() * 1e6 / float64(s.all().Operations) })
		add("", name+"-per-byte", "s/GiB", perByte)
	}
	cost(cpu, func(s sample) time.Duration { return s.cpu })
	if b.Processes > 1 && len(b.Masters) == 0 {
		cost("cpu-of-clients", func(s sample) time.Duration { return s.away })
	}
	return out
}

// kinds makes the figures of each kind of what was done in a phase: how much, and how long single
// operations took if that was looked at.
func (p *phase) kinds(m *measured, add func(kind, what, unit string, of func(sample) float64)) {
	kinds := map[string]uint64{} // and of how many operations of each the times were looked at
	for _, s := range m[0] {
		for kind, d := range s.kinds {
			kinds[kind] += d.Waits.Number
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		of := func(f func(d *done, wall float64) float64) func(sample) float64 {
			return func(s sample) float64 {
				if s.kinds[kind] == nil {
					return 0
				}
				d := *s.kinds[kind]
				if d.Wall == 0 {
					d.Wall = s.wall
				}
				return f(&d, d.Wall.Seconds())
			}
		}
		if kind == kindAcross || kind == kindWithin { // parts of another kind
			add(kind, "number", p.unit, of(func(d *done, _ float64) float64 { return float64(d.Waits.Number) }))
		} else {
			if p.unit != "" {
				add(kind, "rate", p.unit+"/s", of(func(d *done, wall float64) float64 { return float64(d.Operations) / wall }))
			}
			add(kind, "throughput", "GiB/s", of(func(d *done, wall float64) float64 { return float64(d.Bytes) / gib / wall }))
		}
		for _, q := range quantiles {
			if kinds[kind] > 0 {
				add(kind, q.name, "ms", of(func(d *done, _ float64) float64 { return d.Waits.at(q.part).Seconds() * 1e3 }))
			}
		}
	}
}
