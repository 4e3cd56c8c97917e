package bench

import (
	"context"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"
)

// pattern is a stream of bytes that do not compress, made once and repeated.
type pattern struct {
	block []byte
	left  int64
}

func newPattern(n int64, seed uint64) *pattern {
	p := &pattern{block: make([]byte, 1<<20), left: n}
	fillPattern(p.block, seed)
	return p
}

func (p *pattern) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(int64(len(b)), p.left)], p.block)
	p.left -= int64(n)
	return n, nil
}

// each runs f for every client, side by side.
func each(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for i := range n {
		g.Go(func() error { return f(ctx, i) })
	}
	return g.Wait()
}

func name(verb string, clients int, what string) string {
	return fmt.Sprintf("%s/%d/%s", verb, clients, what)
}
