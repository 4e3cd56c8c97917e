package master

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

func names(t *testing.T, m quarry.Master, dir quarry.Inode) (list []string) {
	t.Helper()
	req := &quarry.ListRequest{Dir: dir, Max: 2}
	for {
		page, err := m.List(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Entries {
			list = append(list, e.Name)
			req.After = e.Name
		}
		if !page.More {
			return list
		}
	}
}

// Each change is sent twice under the same Op: it is done once, and both answers are the same.
func TestNamesOnce(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		m, ctx := c.leader(1), t.Context()
		op := quarry.Op{Session: c.session(1), Oldest: 1}
		once := func(what string, change func(op quarry.Op) (*quarry.AttrReply, error)) quarry.Attr {
			t.Helper()
			op.Sequence++
			first, err := change(op)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			c.sleep(time.Second) // the clock has gone on, what was done has not
			second, err := change(op)
			if err != nil || second.Attr != first.Attr {
				t.Fatalf("%s again: %+v, %v, after %+v", what, second, err, first)
			}
			return first.Attr
		}
		dir := once("make a directory", func(op quarry.Op) (*quarry.AttrReply, error) {
			return m.Make(ctx, &quarry.MakeRequest{Op: op, Parent: quarry.RootInode, Name: "d", Kind: quarry.KindDir})
		})
		file := once("make a file", func(op quarry.Op) (*quarry.AttrReply, error) {
			return m.Make(ctx, &quarry.MakeRequest{Op: op, Parent: dir.Inode, Name: "a", Kind: quarry.KindFile})
		})
		once("link", func(op quarry.Op) (*quarry.AttrReply, error) {
			return m.Link(ctx, &quarry.LinkRequest{Op: op, Parent: dir.Inode, Name: "b", Pieces: []quarry.LinkPiece{{Length: 2, Inline: []byte("hi")}}})
		})
		once("make another", func(op quarry.Op) (*quarry.AttrReply, error) {
			return m.Make(ctx, &quarry.MakeRequest{Op: op, Parent: dir.Inode, Name: "e", Kind: quarry.KindFile})
		})
		if moved := once("rename", func(op quarry.Op) (*quarry.AttrReply, error) {
			return m.Rename(ctx, &quarry.RenameRequest{Op: op, Parent: dir.Inode, Name: "a", ToParent: dir.Inode, ToName: "c"})
		}); moved.Inode != file.Inode {
			t.Fatalf("inode %v became %v under another name", file.Inode, moved.Inode)
		}
		if got := names(t, m, dir.Inode); !slices.Equal(got, []string{"b", "c", "e"}) {
			t.Fatalf("the directory has %q", got)
		}
		once("remove", func(op quarry.Op) (*quarry.AttrReply, error) {
			return &quarry.AttrReply{}, m.Remove(ctx, &quarry.RemoveRequest{Op: op, Parent: dir.Inode, Name: "b"})
		})
		found, err := m.Lookup(ctx, &quarry.LookupRequest{From: quarry.RootInode, Path: "d/c"})
		if err != nil || found.Attr.Inode != file.Inode || found.Rest != "" {
			t.Fatalf("%+v, %v", found, err)
		}
		_, err = m.Lookup(ctx, &quarry.LookupRequest{From: quarry.RootInode, Path: "d/b"})
		is(t, err, quarry.NotFound)

		op.Sequence++ // another operation is not a repetition
		is(t, m.Remove(ctx, &quarry.RemoveRequest{Op: op, Parent: dir.Inode, Name: "b"}), quarry.NotFound)
		op.Sequence++
		_, err = m.Make(ctx, &quarry.MakeRequest{Op: op, Parent: dir.Inode, Name: "c", Kind: quarry.KindFile})
		is(t, err, quarry.Exists)
		_, err = m.Make(ctx, &quarry.MakeRequest{Op: op, Parent: dir.Inode, Name: "c", Kind: quarry.KindFile})
		is(t, err, quarry.Exists) // refusals are results, too
	})
}

// The leader dies when it has answered, or before: whoever leads then knows what was done.
func TestNamesOnceAcrossLeaders(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		m, ctx := c.leader(1), t.Context()
		op := quarry.Op{Session: c.session(1), Sequence: 1, Oldest: 1}
		req := &quarry.MakeRequest{Op: op, Parent: quarry.RootInode, Name: "f", Kind: quarry.KindFile}
		first, err := m.Make(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		m.stop()
		now := c.leader(1)
		again, err := now.Make(ctx, req)
		if err != nil || again.Attr != first.Attr {
			t.Fatalf("%+v, %v, after %+v", again, err, first)
		}

		// Without a majority the outcome of an operation is not told. It is asked for later.
		other := c.follower(1)
		other.stop()
		req = &quarry.MakeRequest{Op: quarry.Op{Session: op.Session, Sequence: 2, Oldest: 1}, Parent: quarry.RootInode, Name: "g", Kind: quarry.KindFile}
		short, cancel := clock.Simulated().WithTimeout(ctx, 200*time.Millisecond)
		defer cancel()
		if reply, err := now.Make(short, req); err == nil {
			t.Fatalf("one master of three made %+v", reply)
		}
		if _, err := now.Lookup(short, &quarry.LookupRequest{From: quarry.RootInode, Path: "f"}); err == nil {
			t.Fatal("one master of three answers reads")
		}
		m.start()
		other.start()
		leader := c.leader(1)
		made, err := leader.Make(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		repeated, err := leader.Make(ctx, req)
		if err != nil || repeated.Attr != made.Attr {
			t.Fatalf("%+v, %v, after %+v", repeated, err, made)
		}
		if got := names(t, leader, quarry.RootInode); !slices.Equal(got, []string{"f", "g"}) {
			t.Fatalf("the directory has %q", got)
		}
	})
}

// A node that does not lead sends whoever asks to the one that does.
func TestFollowersNameTheLeader(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		leader, m, ctx := c.leader(1), c.follower(1), t.Context()
		op := quarry.Op{Session: c.session(1), Sequence: 1, Oldest: 1}
		handle := quarry.Handle(quarry.RootInode)
		for name, call := range map[string]func() error{
			"lookup": func() error { _, err := m.Lookup(ctx, &quarry.LookupRequest{From: quarry.RootInode}); return err },
			"list":   func() error { _, err := m.List(ctx, &quarry.ListRequest{Dir: quarry.RootInode, Max: 1}); return err },
			"stat":   func() error { _, err := m.Stat(ctx, &quarry.StatRequest{Inode: quarry.RootInode}); return err },
			"locate": func() error {
				_, err := m.Locate(ctx, &quarry.LocateRequest{File: quarry.RootInode, Max: 1})
				return err
			},
			"chunk": func() error { _, err := m.Chunk(ctx, &quarry.ChunkRequest{Handle: handle}); return err },
			"make": func() error {
				_, err := m.Make(ctx, &quarry.MakeRequest{Op: op, Parent: quarry.RootInode, Name: "x", Kind: quarry.KindFile})
				return err
			},
			"link": func() error {
				_, err := m.Link(ctx, &quarry.LinkRequest{Op: op, Parent: quarry.RootInode, Name: "x"})
				return err
			},
			"rename": func() error {
				_, err := m.Rename(ctx, &quarry.RenameRequest{Op: op, Parent: quarry.RootInode, Name: "x", ToParent: quarry.RootInode, ToName: "y"})
				return err
			},
			"remove": func() error {
				return m.Remove(ctx, &quarry.RemoveRequest{Op: op, Parent: quarry.RootInode, Name: "x"})
			},
			"roll":         func() error { _, err := m.Roll(ctx, &quarry.RollRequest{File: quarry.RootInode}); return err },
			"allocate":     func() error { _, err := m.Allocate(ctx, &quarry.AllocateRequest{Near: quarry.RootInode}); return err },
			"finish":       func() error { _, err := m.Finish(ctx, &quarry.FinishRequest{Handle: handle}); return err },
			"report":       func() error { return m.Report(ctx, &quarry.ReportRequest{Handle: handle}) },
			"inventory":    func() error { _, err := m.Inventory(ctx, &quarry.InventoryRequest{Shard: 1}); return err },
			"open session": func() error { _, err := m.Session(ctx, &quarry.SessionRequest{Shard: 1}); return err },
			"keep session": func() error {
				_, err := m.Session(ctx, &quarry.SessionRequest{Shard: 1, Session: op.Session})
				return err
			},
			"close session": func() error {
				_, err := m.Session(ctx, &quarry.SessionRequest{Shard: 1, Session: op.Session, Close: true})
				return err
			},
		} {
			pointsAt(t, name, call(), leader)
		}
		if got := names(t, leader, quarry.RootInode); len(got) != 0 {
			t.Fatalf("the directory has %q", got)
		}
		_, err := leader.Session(ctx, &quarry.SessionRequest{Shard: testShards + 1})
		is(t, err, quarry.WrongShard)
	})
}

// A session lives as long as it is kept alive, and not longer; each shard has its own.
func TestSession(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		ctx := context.Background()
		seen := map[quarry.SessionID]bool{}
		for _, id := range []quarry.ShardID{1, 1, 2} {
			m, s := c.leader(id), c.session(id)
			if s == 0 || seen[s] {
				t.Fatalf("session %d was given twice", s)
			}
			seen[s] = true
			for range 2 {
				c.sleep(testExpiry * 3 / 4)
				m = c.leader(id)
				reply, err := m.Session(ctx, &quarry.SessionRequest{Shard: id, Session: s})
				if err != nil || reply.Session != s || reply.ExpiryMS != testExpiry.Milliseconds() {
					t.Fatalf("%+v, %v", reply, err)
				}
			}
			if _, err := m.Session(ctx, &quarry.SessionRequest{Shard: id, Session: s, Close: true}); err != nil {
				t.Fatal(err)
			}
			_, err := m.Session(ctx, &quarry.SessionRequest{Shard: id, Session: s})
			is(t, err, quarry.SessionExpired)
		}
		s := c.session(1)
		c.sleep(2 * testExpiry)
		_, err := c.leader(1).Session(ctx, &quarry.SessionRequest{Shard: 1, Session: s})
		is(t, err, quarry.SessionExpired)
		_, err = c.leader(1).Make(ctx, &quarry.MakeRequest{
			Op: quarry.Op{Session: s, Sequence: 1, Oldest: 1}, Parent: quarry.RootInode, Name: fmt.Sprint(s), Kind: quarry.KindFile,
		})
		is(t, err, quarry.SessionExpired)
	})
}
