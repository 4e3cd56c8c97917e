package bench

import (
	"context"
	"slices"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/cluster"
	"github.com/quarryfs/quarry/rpc"
	"github.com/quarryfs/quarry/rpc/route"
)

// A record has gone across a rollover when it stands in another chunk than the one that its appender
// had appended before: an appender with one record under way has met the end of a chunk with that
// record, and with no other. Where chunks begin is asked for when a run is over, so that it costs the
// run nothing.

// The kinds of records, beside the one of all of them. Of these only waits are told.
const (
	kindAcross = "across-rollovers"
	kindWithin = "within-a-chunk"
)

// standing is where a record stands in its file, and how long it took to get there.
type standing struct {
	offset int64
	took   time.Duration
}

// stands notes the records that one appender has appended to a file, in order.
func (t *tally) stands(path string, row []standing) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rows == nil {
		t.rows = map[string][][]standing{}
	}
	t.rows[path] = append(t.rows[path], row)
}

// tellRolls tallies the records that were noted by whether they have gone across a rollover.
func (b *run) tellRolls(ctx context.Context, masters []string, t *tally) error {
	if len(t.rows) == 0 {
		return nil
	}
	network, err := b.network()
	if err != nil {
		return err
	}
	conns := rpc.NewClient(rpc.ClientConfig{
		Network: network, Clock: b.clock, Key: b.Key,
		Identity: func() rpc.Identity { return rpc.Identity{Role: rpc.RoleClient, Release: cluster.Release} },
	})
	defer conns.Close()
	routed, err := route.New(route.Options{
		Addresses: masters, Clock: b.clock, Dial: func(a string) (quarry.Master, error) { return conns.Master(a), nil },
	})
	if err != nil {
		return err
	}
	defer routed.Close()
	for path, rows := range t.rows {
		begins, err := chunkBegins(ctx, routed, path)
		if err != nil {
			return err
		}
		for _, row := range rows {
			t.divide(row, begins)
		}
	}
	return nil
}

// divide tallies an appender's records; begins is where the chunks of their file do.
func (t *tally) divide(row []standing, begins []int64) {
	before := -1
	for _, s := range row {
		at, exact := slices.BinarySearch(begins, s.offset)
		if !exact {
			at--
		}
		kind := kindWithin
		if before >= 0 && at != before {
			kind = kindAcross
		}
		before = at
		t.change(kind, func(d *done) { d.Waits.add(s.took) })
	}
}

// chunkBegins returns where the chunks of a file begin, in order.
func chunkBegins(ctx context.Context, master quarry.Master, path string) (begins []int64, err error) {
	found, err := master.Lookup(ctx, &quarry.LookupRequest{From: quarry.RootInode, Path: path[1:]})
	if err != nil {
		return nil, err
	}
	for offset := int64(0); ; {
		page, err := master.Locate(ctx, &quarry.LocateRequest{File: found.Attr.Inode, Offset: offset, Max: quarry.PiecesMax})
		if err != nil {
			return nil, err
		}
		for _, p := range page.Pieces {
			begins = append(begins, p.Offset)
		}
		if !page.More || len(page.Pieces) == 0 {
			return begins, nil
		}
		last := page.Pieces[len(page.Pieces)-1]
		offset = last.Offset + last.Length
	}
}
