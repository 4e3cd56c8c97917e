package client

import (
	"context"
	"math"
	"slices"
	"sort"
	"sync"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client/waiting"
	"github.com/quarryfs/quarry/clock"
)

const (
	// pagePieces is how many pieces one call to the master fetches: 16 GiB of full chunks.
	pagePieces = 256
	// pagesMax bounds the pages of one file that are kept.
	pagesMax = 16
)

// layout is what is known of where a file's bytes are, in pages. A page is fetched when a
// read first comes to it, and again when a server refuses what the page says.
type layout struct {
	f    *FS
	file quarry.Inode

	fetching waiting.Gate // one fetch at a time

	mu    sync.Mutex
	pages []*page // ascending, not overlapping
	clock uint64  // counts uses
	open  *open   // the tail, as far as it is known
}

// page is a part of a layout. It does not change, but for used.
type page struct {
	start  int64 // in the file
	end    int64 // behind the last piece; where an open-ended piece begins, for it has no end
	pieces []quarry.Piece
	chunks []quarry.Chunk // sorted by handle
	used   uint64
	asked  clock.Instant // when
}

// open is a file's open-ended piece and its chunk.
type open struct {
	piece quarry.Piece
	chunk *quarry.Chunk
}

// place is where a byte of a file is.
type place struct {
	page  *page
	piece *quarry.Piece
	chunk *quarry.Chunk // nil for holes and inline bytes
}

func (f *FS) layout(file quarry.Inode) *layout {
	return &layout{f: f, file: file, fetching: waiting.NewGate()}
}

// at returns where the byte at offset is; a place without a piece if the layout ends before.
// old, if not nil, is a page that a server has refused: what it says is fetched again.
func (l *layout) at(ctx context.Context, offset int64, old *page) (place, error) {
	if p := l.cached(offset); p != nil && p != old {
		return p.place(offset), nil
	}
	if err := l.fetching.Lock(ctx); err != nil {
		return place{}, err
	}
	defer l.fetching.Unlock()
	if p := l.cached(offset); p != nil && p != old {
		return p.place(offset), nil
	}
	asked := l.f.clock.Now()
	reply, err := l.f.masters.Locate(ctx, &quarry.LocateRequest{File: l.file, Offset: offset, Max: pagePieces})
	if err != nil {
		return place{}, err
	}
	p, err := makePage(reply, offset)
	if err != nil {
		return place{}, err
	}
	p.asked = asked
	l.keep(p)
	return p.place(offset), nil
}

// makePage checks a master's answer.
func makePage(reply *quarry.LocateReply, offset int64) (*page, error) {
	broken := func(format string, args ...any) (*page, error) {
		return nil, quarry.Errorf("locate", quarry.Internal, "", "the master's layout is broken: "+format, args...)
	}
	p := &page{start: offset, end: offset, pieces: reply.Pieces, chunks: reply.Chunks}
	slices.SortFunc(p.chunks, func(a, b quarry.Chunk) int { return compare(a.Handle, b.Handle) })
	for i := range p.pieces {
		piece := &p.pieces[i]
		if i == 0 {
			p.start, p.end = piece.Offset, piece.Offset
		}
		switch {
		case piece.Offset != p.end || piece.Offset < 0:
			return broken("a piece begins at %d, not at %d", piece.Offset, p.end)
		case piece.Length == quarry.OpenEnded && (i != len(p.pieces)-1 || piece.Kind != quarry.PieceChunk):
			return broken("a piece at %d has no end", piece.Offset)
		case piece.Length == quarry.OpenEnded:
		case piece.Length < 0 || piece.Length > math.MaxInt64-piece.Offset:
			return broken("a piece at %d has %d bytes", piece.Offset, piece.Length)
		case piece.Kind == quarry.PieceInline && piece.Length != int64(len(piece.Inline)):
			return broken("an inline piece of %d bytes has %d", piece.Length, len(piece.Inline))
		default:
			p.end += piece.Length
		}
		if piece.Kind == quarry.PieceChunk && (p.chunk(piece.Handle) == nil || piece.ChunkOffset < 0) {
			return broken("the piece at %d names chunk %v, which is not told", piece.Offset, piece.Handle)
		}
	}
	if len(p.pieces) > 0 && p.start > offset {
		return broken("it begins at %d, %d was asked for", p.start, offset)
	}
	return p, nil
}

func compare(a, b quarry.Handle) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (p *page) chunk(h quarry.Handle) *quarry.Chunk {
	i, ok := slices.BinarySearchFunc(p.chunks, h, func(c quarry.Chunk, h quarry.Handle) int { return compare(c.Handle, h) })
	if !ok {
		return nil
	}
	return &p.chunks[i]
}

// tail returns the open-ended piece, if the page has it.
func (p *page) tail() *open {
	if n := len(p.pieces); n > 0 && p.pieces[n-1].Length == quarry.OpenEnded {
		return &open{p.pieces[n-1], p.chunk(p.pieces[n-1].Handle)}
	}
	return nil
}

func (p *page) place(offset int64) place {
	i := sort.Search(len(p.pieces), func(i int) bool { return p.pieces[i].Offset > offset }) - 1
	if i < 0 {
		return place{page: p}
	}
	piece := &p.pieces[i]
	if piece.Length != quarry.OpenEnded && offset >= piece.Offset+piece.Length {
		return place{page: p}
	}
	at := place{page: p, piece: piece}
	if piece.Kind == quarry.PieceChunk {
		at.chunk = p.chunk(piece.Handle)
	}
	return at
}

// cached returns the page that has the byte at offset.
func (l *layout) cached(offset int64) *page {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := sort.Search(len(l.pages), func(i int) bool { return l.pages[i].start > offset }) - 1
	if i < 0 || l.pages[i].place(offset).piece == nil {
		return nil
	}
	l.clock++
	l.pages[i].used = l.clock
	return l.pages[i]
}

// keep puts a fetched page in the place of those that it overlaps.
func (l *layout) keep(p *page) {
	if len(p.pieces) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pages = slices.DeleteFunc(l.pages, func(q *page) bool {
		return q.start < p.end && p.start < q.end || q.start == p.start || q.tail() != nil && (p.tail() != nil || p.end > q.start)
	})
	l.clock++
	p.used = l.clock
	if t := p.tail(); t != nil {
		l.open = t
	}
	if len(l.pages) >= pagesMax {
		oldest := 0
		for i, q := range l.pages {
			if q.used < l.pages[oldest].used {
				oldest = i
			}
		}
		l.pages = slices.Delete(l.pages, oldest, oldest+1)
	}
	i := sort.Search(len(l.pages), func(i int) bool { return l.pages[i].start > p.start })
	l.pages = slices.Insert(l.pages, i, p)
}
