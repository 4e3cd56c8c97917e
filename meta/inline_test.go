package meta

import (
	"bytes"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta/attr"
)

// sealedPieces is a state whose pieces nobody may read or write any more; they may be deleted.
type sealedPieces struct {
	*Memory
	t *testing.T
}

func (s sealedPieces) look(what string, key []byte) {
	if key[0] != 0xff && key[2] == tablePiece {
		s.t.Errorf("%s %x, which is a piece", what, key)
	}
}

func (s sealedPieces) Get(key []byte) ([]byte, bool) {
	s.look("read", key)
	return s.Memory.Get(key)
}

func (s sealedPieces) Scan(lo, hi []byte, fn func(key, value []byte) bool) {
	s.Memory.Scan(lo, hi, func(key, value []byte) bool {
		s.look("scanned", key)
		return fn(key, value)
	})
}

func (s sealedPieces) Set(key, value []byte) {
	s.look("set", key)
	s.Memory.Set(key, value)
}

// TestInlineBytesAreLeftAlone has a file's inline bytes neither read nor written by anything but who
// asks for its layout: not when it is looked at, changed, renamed, removed, brought back, collected
// or replaced.
func TestInlineBytesAreLeftAlone(t *testing.T) {
	s := newShard(t)
	dir := s.mkdir(quarry.RootInode, "d")
	content := bytes.Repeat([]byte("x"), quarry.InlineBytesMax)
	link := func(name string) quarry.Inode {
		return s.ok(&Link{Parent: dir, Name: name, Pieces: []quarry.LinkPiece{{Inline: content}}}).Attr.Inode
	}
	f := link("f")
	link("now")
	link("under")
	kv := sealedPieces{s.kv, t}
	for _, b := range []Body{
		&SetAttr{attr.Change{Inode: f, SetMode: true, Mode: 0o600}},
		&Rename{Parent: dir, Name: "f", ToParent: quarry.RootInode, ToName: "g"},
		&Remove{Parent: quarry.RootInode, Name: "g", Path: "/g"},
		&Undelete{Parent: dir, Name: "f", Inode: f},
		&Rename{Parent: dir, Name: "f", ToParent: dir, ToName: "under", Replace: true},
		&Remove{Parent: dir, Name: "under"},
		&Remove{Parent: dir, Name: "now", Now: true},
	} {
		_, err := Lookup(kv, &quarry.LookupRequest{From: quarry.RootInode, Path: "d/f"}, nil)
		if err != nil && quarry.KindOf(err) != quarry.NotFound {
			t.Error(err)
		}
		if _, err := Stat(kv, &quarry.StatRequest{Inode: f}); err != nil && quarry.KindOf(err) != quarry.NotFound {
			t.Error(err)
		}
		if _, err := List(kv, &quarry.ListRequest{Dir: dir, Max: 10}, nil); err != nil {
			t.Error(err)
		}
		s.seq++
		if r, err := DecodeResult(s.m.Apply(kv, s.encode(quarry.Op{Session: s.session, Sequence: s.seq, Oldest: s.seq}, b))); err != nil || r.Err != nil {
			t.Errorf("%T: %v, %v", b, err, r.Err)
		}
	}
	s.time += 1000
	for more := true; more; { // a file without chunks goes whole, however small the step
		r, err := DecodeResult(s.m.Apply(kv, s.encode(quarry.Op{}, &Collect{KeepMS: 100, Max: 1})))
		if err != nil || r.Err != nil {
			t.Fatal(err, r.Err)
		}
		more = r.More
	}
	s.kv.Scan(nil, nil, func(key, _ []byte) bool {
		if key[0] != 0xff && key[2] == tablePiece {
			t.Errorf("piece %x is left", key)
		}
		return true
	})
	if n := Totals(s.kv); n.Files != 0 || n.Removed != 0 || n.RemovedBytes != 0 {
		t.Errorf("counters %+v", n)
	}
	s.do(&KeepSessions{}) // checks the state
}

// TestInlineBytesMax links as many bytes as the layout takes, tells them again, and refuses one more.
func TestInlineBytesMax(t *testing.T) {
	s := newShard(t)
	content := bytes.Repeat([]byte("0123"), quarry.InlineBytesMax/4)
	link := &Link{Parent: quarry.RootInode, Name: "f", Pieces: []quarry.LinkPiece{{Inline: content}}}
	f := s.ok(link).Attr
	page, err := Locate(s.kv, &quarry.LocateRequest{File: f.Inode, Max: 1})
	if err != nil || len(page.Pieces) != 1 || !bytes.Equal(page.Pieces[0].Inline, content) || page.Pieces[0].Length != f.Length || page.More {
		t.Errorf("%d pieces of a file of %d bytes, %v", len(page.Pieces), f.Length, err)
	}
	link.Pieces[0].Inline = append(content, 'x')
	if _, err := (&Command{Body: link}).Append(nil); quarry.KindOf(err) != quarry.TooLarge {
		t.Errorf("one byte more: %v", err)
	}
}
