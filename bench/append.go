package bench

import (
	"context"
	"fmt"

	"github.com/quarryfs/quarry/client"
)

// append is durable records of many appenders to one file or to several, against the same cluster
// with a batch of one record, which of a running cluster there is not.
func (b *run) append() load {
	l := load{
		name:  "append",
		begin: func(ctx context.Context, s *scene, r round) error { return b.logs(ctx, s.fs, r.Dir) },
		takes: func(r round) int64 {
			return int64(min(copiesMax, r.Servers)) * int64(b.operations(r)*r.RecordBytes)
		},
		phases: []phase{{unit: "records"}},
	}
	p := &l.phases[0]
	p.work = func(ctx context.Context, fs *client.FS, r round, k int, t *tally) error {
		return b.appendTo(ctx, fs, r, k, t)
	}
	p.after = b.tellRolls
	if len(b.Masters) > 0 {
		return l
	}
	l.prepare = func(ctx context.Context, s *scene) (err error) {
		s.single, err = b.embedded(ctx, "cluster-one", s.servers, true)
		return err
	}
	p.bare = func(ctx context.Context, s *scene, r round, t *tally) error {
		if err := s.single.fs.Mkdir(ctx, r.Dir); err != nil {
			return err
		}
		if err := b.logs(ctx, s.single.fs, r.Dir); err != nil {
			return err
		}
		r.Operations = max(b.operations(r)/10, r.Clients) // it is slow, and its rate does not depend on how many there are
		return s.single.clients(ctx, l, 0, r, t)
	}
	return l
}

// logs makes the files that are appended to.
func (b *run) logs(ctx context.Context, fs *client.FS, dir string) error {
	for i := range b.Files {
		if err := create(ctx, fs, fmt.Sprintf("%s/log-%d", dir, i)); err != nil {
			return err
		}
	}
	return nil
}

// appendTo appends client k's share of a round's records to its file, one after the other.
func (b *run) appendTo(ctx context.Context, fs *client.FS, r round, k int, t *tally) error {
	path := fmt.Sprintf("%s/log-%d", r.Dir, k%b.Files)
	a, err := fs.Appender(ctx, path)
	if err != nil {
		return err
	}
	defer a.Close()
	record := make([]byte, r.RecordBytes)
	fillPattern(record, uint64(k)+2)
	row := make([]standing, 0, share(b.operations(r), r.Clients, k))
	for range cap(row) {
		var s standing
		err := t.time("", int64(len(record)), func() (err error) {
			began := b.clock.Now()
			s.offset, err = a.Append(ctx, record)
			s.took = b.clock.Now().Sub(began)
			return err
		})
		if err != nil {
			return err
		}
		row = append(row, s)
	}
	t.stands(path, row)
	return nil
}
