package cluster_test

import (
	"bytes"
	"flag"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/rpc"
	"github.com/quarryfs/quarry/rpc/route"
)

var appendsFlag = flag.Int("appends", 60, "how many appends TestAppendsNowAndThen makes")

// TestAppendsNowAndThen appends records of 1 KiB to one file, each through a client of its own
// that is opened and closed, and after each the tail is sealed as if nobody had written for a
// while: the file stays one chunk.
func TestAppendsNowAndThen(t *testing.T) {
	d, f, ctx := dev(t, 3)
	c := rpc.NewClient(rpc.ClientConfig{
		Network: rpc.TCP, Clock: clock.System(), Identity: func() rpc.Identity { return rpc.Identity{Role: rpc.RoleClient} },
	})
	defer c.Close()
	masters, err := route.New(route.Options{
		Addresses: d.Masters, Clock: clock.System(), Dial: func(a string) (quarry.Master, error) { return c.Master(a), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer masters.Close()
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
