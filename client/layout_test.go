package client

import (
	"math"
	"strings"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

func chunkPiece(offset, length int64, h quarry.Handle) quarry.Piece {
	return quarry.Piece{Offset: offset, Length: length, Kind: quarry.PieceChunk, Handle: h}
}

func TestMakePage(t *testing.T) {
	chunks := []quarry.Chunk{{Handle: 7}, {Handle: 3}}
	for name, c := range map[string]struct {
		offset int64
		pieces []quarry.Piece
		broken string
	}{
		"none":               {5, nil, ""},
		"one":                {5, []quarry.Piece{chunkPiece(0, 10, 3)}, ""},
		"a row":              {0, []quarry.Piece{chunkPiece(0, 10, 3), chunkPiece(10, quarry.OpenEnded, 7)}, ""},
		"a gap":              {0, []quarry.Piece{chunkPiece(0, 10, 3), chunkPiece(11, 5, 7)}, "begins at 11"},
		"an overlap":         {0, []quarry.Piece{chunkPiece(0, 10, 3), chunkPiece(9, 5, 7)}, "begins at 9"},
		"begins too late":    {5, []quarry.Piece{chunkPiece(6, 10, 3)}, "5 was asked for"},
		"open in the middle": {0, []quarry.Piece{chunkPiece(0, quarry.OpenEnded, 3), chunkPiece(10, 5, 7)}, "no end"},
		"an open hole":       {0, []quarry.Piece{{Length: quarry.OpenEnded, Kind: quarry.PieceHole}}, "no end"},
		"negative":           {0, []quarry.Piece{chunkPiece(0, -2, 3)}, "-2 bytes"},
		"beyond all":         {0, []quarry.Piece{chunkPiece(0, 10, 3), chunkPiece(10, math.MaxInt64, 3)}, "bytes"},
		"a false inline":     {0, []quarry.Piece{{Length: 3, Kind: quarry.PieceInline, Inline: []byte("xx")}}, "has 2"},
		"no such chunk":      {0, []quarry.Piece{chunkPiece(0, 10, 4)}, "not told"},
		"before the chunk":   {0, []quarry.Piece{{Length: 10, Kind: quarry.PieceChunk, Handle: 3, ChunkOffset: -1}}, "not told"},
	} {
		p, err := makePage(&quarry.LocateReply{Pieces: c.pieces, Chunks: append([]quarry.Chunk(nil), chunks...)}, c.offset)
		switch {
		case c.broken == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.broken != "" && (err == nil || !strings.Contains(err.Error(), c.broken)):
			t.Errorf("%s: got %v, want %q", name, err, c.broken)
		case err == nil && len(c.pieces) > 0 && p.place(c.offset).piece == nil:
			t.Errorf("%s: the page does not have the byte that was asked for", name)
		}
	}
}

// Pages that overlap a newer one go, and the least used one goes when there are too many.
func TestLayoutKeepsAFewPages(t *testing.T) {
	f := &FS{opts: Options{Clock: clock.System()}}
	l := f.layout(1)
	add := func(at, length int64) {
		p, err := makePage(&quarry.LocateReply{Pieces: []quarry.Piece{chunkPiece(at, length, 3)}, Chunks: []quarry.Chunk{{Handle: 3}}}, at)
		if err != nil {
			t.Fatal(err)
		}
		l.keep(p)
	}
	for i := range int64(100) {
		add(i*10, 10)
		if i > 0 && l.cached(5) == nil {
			t.Fatal("the page that is used went")
		}
	}
	if n := len(l.pages); n > pagesMax {
		t.Errorf("%d pages are kept, at most %d may be", n, pagesMax)
	}
	if l.cached(995) == nil || l.cached(200) != nil {
		t.Error("the newest page is not there, or an old one is")
	}
	add(0, 1000)
	if n := len(l.pages); n != 1 {
		t.Errorf("%d pages are left beside one that covers all", n)
	}
	add(1000, quarry.OpenEnded)
	add(1000, 50)
	if p := l.cached(1100); p != nil {
		t.Errorf("a sealed piece left the open one: %+v", p)
	}
	l.setOpen(&open{chunkPiece(1050, quarry.OpenEnded, 9), &quarry.Chunk{Handle: 9}})
	if l.cached(1049) == nil {
		t.Error("a page that is right was forgotten")
	}
}

func TestSplit(t *testing.T) {
	for path, want := range map[string]string{"": "", "/": "", "a": "a", "//a///b/": "a b", "/a/b": "a b"} {
		if got, err := split(path); err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q: %q, %v", path, got, err)
		}
	}
	for _, path := range []string{"/a/./b", "..", "a/..", "a\x00", strings.Repeat("x", 256), strings.Repeat("/a", 257), strings.Repeat("x/", 2049)} {
		if got, err := split(path); err == nil {
			t.Errorf("%.20q: %q", path, got)
		}
	}
}
