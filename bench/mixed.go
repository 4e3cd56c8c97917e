package bench

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/quarryfs/quarry/client"
)

// mixedBytes is how much a writer of mixed puts at a time.
const mixedBytes = 4 << 20

// mixed is readers of one file, writers of files and appenders to one file, as many of each, at the
// same time, against each kind alone.
func (b *run) mixed() load {
	kinds := []struct {
		name string
		work func(ctx context.Context, fs *client.FS, r round, k int, t *tally) error
	}{{"read", b.mixedRead}, {"write", b.mixedWrite}, {"append", b.mixedAppend}}
	l := load{name: "mixed", prepare: b.readable, phases: make([]phase, 1),
		begin: func(ctx context.Context, s *scene, r round) error { return create(ctx, s.fs, r.Dir+"/log") }}
	l.phases[0].work = func(ctx context.Context, fs *client.FS, r round, k int, t *tally) error {
		return each(ctx, len(kinds), func(ctx context.Context, i int) error {
			if r.Alone != "" && r.Alone != kinds[i].name {
				return nil
			}
			return kinds[i].work(ctx, fs, r, k, t)
		})
	}
	l.phases[0].bare = func(ctx context.Context, s *scene, r round, t *tally) error {
		for _, kind := range kinds {
			r.Alone = kind.name
			alone, err := measure(ctx, b.clock, func(ctx context.Context) error { return s.clients(ctx, l, 0, r, t) })
			if err != nil {
				return err
			}
			t.change(kind.name, func(d *done) { d.Wall = alone.wall })
		}
		return nil
	}
	return l
}

// until does the same again and again for as long as a run lasts.
func (b *run) until(do func(i int) error) error {
	for i, end := 0, b.clock.Now().Add(b.Duration); b.clock.Now() < end; i++ {
		if err := do(i); err != nil {
			return err
		}
	}
	return nil
}

func (b *run) mixedRead(ctx context.Context, fs *client.FS, r round, k int, t *tally) error {
	f, err := fs.Open(ctx, r.Root+"/read")
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, min(1<<20, b.Bytes))
	return b.until(func(int) error {
		return t.time("read", int64(len(buf)), func() error {
			_, err := io.ReadFull(f, buf)
			if err != io.EOF && err != io.ErrUnexpectedEOF {
				return err
			}
			if _, err := f.Seek(0, io.SeekStart); err != nil { // once more from the beginning
				return err
			}
			_, err = io.ReadFull(f, buf)
			return err
		})
	})
}

func (b *run) mixedWrite(ctx context.Context, fs *client.FS, r round, k int, t *tally) error {
	return b.until(func(i int) error {
		return t.time("write", mixedBytes, func() error {
			_, err := fs.Put(ctx, fmt.Sprintf("%s/%d-%d", r.Dir, k, i), newPattern(mixedBytes, uint64(k)), client.PutOptions{Size: mixedBytes})
			return err
		})
	})
}

func (b *run) mixedAppend(ctx context.Context, fs *client.FS, r round, k int, t *tally) error {
	return b.appendOn(ctx, fs, r.Dir+"/log", r.RecordBytes, k, t)
}

// appendOn appends records of a client k to a file, one after the other, for as long as a run lasts.
func (b *run) appendOn(ctx context.Context, fs *client.FS, path string, recordBytes, k int, t *tally) (err error) {
	a, err := fs.Appender(ctx, path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	record := make([]byte, recordBytes)
	fillPattern(record, uint64(k)+2)
	return b.until(func(int) error {
		return t.time("append", int64(len(record)), func() error {
			_, err := a.Append(ctx, record)
			return err
		})
	})
}
