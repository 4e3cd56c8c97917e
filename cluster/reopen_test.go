package cluster_test

import (
	"bytes"
	"flag"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/cluster"
	"github.com/quarryfs/quarry/rpc"
	"github.com/quarryfs/quarry/rpc/route"
)

var appendsFlag = flag.Int("appends", 60, "how many appends TestAppendsNowAndThen makes")

// TestAppendsNowAndThen appends records of 1 KiB to one file, each through a client of its own
// that is opened and closed, and after each the tail is sealed as if nobody had written for a
// while: the file stays one chunk.
func TestAppendsNowAndThen(t *testing.T) {
	t.Parallel()
	d, f, ctx := dev(t, 3)
	masters := operator(t, d)
	w, err := f.Create(ctx, "/log")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat(ctx, "/log")
	if err != nil {
		t.Fatal(err)
	}
	file := info.Attr.Inode
	var want []byte
	var appending time.Duration
	for i := range *appendsFlag {
		record := randomBytes(1024, uint64(i))
		g, err := client.Open(ctx, d.Masters, client.Options{})
		if err != nil {
			t.Fatal(err)
		}
		began := clock.System().Now()
		offset, err := g.Append(ctx, "/log", record)
		appending += clock.System().Now().Sub(began)
		if err != nil || offset != int64(len(want)) {
			t.Fatalf("append %d: at %d, %v", i, offset, err)
		}
		want = append(want, record...)
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
		stat, err := masters.Stat(ctx, &quarry.StatRequest{Inode: file})
		if err != nil || stat.Tail == nil {
			t.Fatalf("append %d: %+v, %v", i, stat, err)
		}
		if err := masters.Report(ctx, &quarry.ReportRequest{Handle: stat.Tail.Handle, Version: stat.Tail.Version}); err != nil {
			t.Fatal(err)
		}
		for stat.Attr.Open {
			if stat, err = masters.Stat(ctx, &quarry.StatRequest{Inode: file}); err != nil {
				t.Fatal(err)
			}
			if err := clock.System().Sleep(ctx, time.Millisecond); err != nil {
				t.Fatal(err)
			}
		}
	}
	layout, err := masters.Locate(ctx, &quarry.LocateRequest{File: file, Max: quarry.PiecesMax})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d appends: %d pieces, %v each", *appendsFlag, len(layout.Pieces), appending/time.Duration(*appendsFlag))
	if n := len(layout.Pieces); n > 1+*appendsFlag/20 { // a server may be late to confirm a seal
		t.Errorf("%d appends made %d pieces", *appendsFlag, n)
	}
	if got := readBack(ctx, t, f, "/log"); !bytes.Equal(got, want) {
		t.Errorf("%d bytes come back, %d were appended", len(got), len(want))
	}
}

// TestCrumbsAreMerged has a writer give up one chunk after the other, as it does when servers
// fail, and reads the file all the while: by the layout of before, and by that of after.
func TestCrumbsAreMerged(t *testing.T) {
	t.Parallel()
	d, f, ctx := dev(t, 4)
	masters := operator(t, d)
	w, err := f.Create(ctx, "/log")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var want []byte
	var reader *client.File
	for i := range 40 {
		record := randomBytes(100+977*i, uint64(i))
		if _, err := f.Append(ctx, "/log", record); err != nil {
			t.Fatal(err)
		}
		want = append(want, record...)
		if i == 0 {
			if reader, err = f.Open(ctx, "/log"); err != nil {
				t.Fatal(err)
			}
			defer reader.Close()
		}
		got := make([]byte, len(want))
		if _, err := reader.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("after record %d: %v", i, err)
		}
		stat, err := masters.Stat(ctx, &quarry.StatRequest{Inode: reader.Info().Attr.Inode})
		if err != nil || stat.Tail == nil {
			t.Fatalf("after record %d: %+v, %v", i, stat, err)
		}
		req := &quarry.RollRequest{File: reader.Info().Attr.Inode, Last: stat.Tail.Handle, Version: stat.Tail.Version}
		if _, err := masters.Roll(ctx, req); err != nil {
			t.Fatal(err)
		}
	}
	layout, err := masters.Locate(ctx, &quarry.LocateRequest{File: reader.Info().Attr.Inode, Max: quarry.PiecesMax})
	if err != nil || len(layout.Pieces) >= 40 {
		t.Fatalf("%d pieces, %v", len(layout.Pieces), err)
	}
	t.Logf("40 chunks were given up, there are %d pieces", len(layout.Pieces))
	if got := readBack(ctx, t, f, "/log"); !bytes.Equal(got, want) {
		t.Errorf("%d bytes come back, %d were appended", len(got), len(want))
	}
	if info, err := f.Stat(ctx, "/log"); err != nil || info.Size() != int64(len(want)) {
		t.Errorf("the file is %+v, %v", info, err)
	}
}

// TestPutThenAppend appends to files that the same client has just put, records as long as the
// bytes that were put and others: they come behind them, and are there once. An old tail is
// opened again; a chunk that was put is not, whose records have the session's sequences too.
func TestPutThenAppend(t *testing.T) {
	t.Parallel()
	d, f, ctx := dev(t, 3)
	masters := operator(t, d)
	for path, n := range map[string]int{"/equal": 100_000, "/shorter": 10, "/longer": 100_001} {
		want := randomBytes(100_000, 1)
		info, err := f.Put(ctx, path, bytes.NewReader(want), client.PutOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			record := randomBytes(n, uint64(2+i))
			offset, err := f.Append(ctx, path, record)
			if err != nil || offset != int64(len(want)) {
				t.Errorf("%s: record %d was appended at %d, the file had %d bytes, %v", path, i, offset, len(want), err)
			}
			want = append(want, record...)
		}
		if got := readBack(ctx, t, f, path); !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes come back, %d were put and appended", path, len(got), len(want))
		}
		layout, err := masters.Locate(ctx, &quarry.LocateRequest{File: info.Attr.Inode, Max: quarry.PiecesMax})
		if err != nil || len(layout.Pieces) != 2 {
			t.Errorf("%s: the layout is %+v, %v", path, layout, err)
		}
	}
}

// operator returns a router to a cluster's masters.
func operator(t *testing.T, d *cluster.Dev) *route.Masters {
	t.Helper()
	c := rpc.NewClient(rpc.ClientConfig{
		Network: rpc.TCP, Clock: clock.System(), Identity: func() rpc.Identity { return rpc.Identity{Role: rpc.RoleClient} },
	})
	t.Cleanup(func() { c.Close() })
	masters, err := route.New(route.Options{
		Addresses: d.Masters, Clock: clock.System(), Dial: func(a string) (quarry.Master, error) { return c.Master(a), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { masters.Close() })
	return masters
}
