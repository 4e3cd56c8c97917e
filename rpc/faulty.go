package rpc

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/quarryfs/quarry/clock"
)

// Faults are what a Faulty network does to every piece of bytes that is written. The zero
// Faults do nothing.
type Faults struct {
	DelayMin, DelayMax time.Duration // how long a piece takes; pieces keep their order
	Reset              float64       // chance that the connection breaks, seen by both sides
	Freeze             float64       // chance that the connection carries nothing more, seen by nobody
	Corrupt            float64       // chance that one bit is turned over
}

var errReset = errors.New("connection reset by a fault")

// faultyQueueBytes is what a connection takes before its writer has to wait, as a socket does.
const faultyQueueBytes = 256 << 10

// Faulty wraps another network and breaks it: at random, from a seed, and on demand between
// nodes that are named. Each connection draws from a source of its own, so what happens to it
// depends on the seed, on its number and on what is written to it only.
type Faulty struct {
	inner  Network
	clk    clock.Clock
	seed   uint64
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	pumps  sync.WaitGroup

	mu      sync.Mutex
	faults  Faults
	number  uint64            // of the last connection
	nodes   map[string]string // node by the address it listens at or dialled from
	blocked map[pair]bool
	changed chan struct{} // closed when blocked changes
	conns   map[*faultyConn]struct{}
}

// pair is a direction between two nodes.
type pair struct{ from, to string }

// NewFaulty returns a network over inner that has no faults yet. Close ends it.
func NewFaulty(inner Network, clk clock.Clock, seed uint64) *Faulty {
	ctx, cancel := context.WithCancel(context.Background())
	return &Faulty{inner: inner, clk: clk, seed: seed, ctx: ctx, cancel: cancel, nodes: map[string]string{}, blocked: map[pair]bool{},
		changed: make(chan struct{}), conns: map[*faultyConn]struct{}{}}
}

// Close ends all connections, also those that are blocked or frozen.
func (f *Faulty) Close() error {
	f.cancel()
	f.mu.Lock()
	conns := slices.Collect(maps.Keys(f.conns))
	f.mu.Unlock()
	for _, c := range conns {
		c.fail(net.ErrClosed)
	}
	f.pumps.Wait()
	return nil
}

// Node returns the network as the node of that name sees it.
func (f *Faulty) Node(name string) Network { return &faultyNode{f, name} }

// Set changes the faults, for connections that exist too.
func (f *Faulty) Set(faults Faults) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = faults
}

// Block holds back what one node sends to another one, as a network without a route does:
// no connection is reset, nothing is lost, and new ones do not come about.
func (f *Faulty) Block(from, to string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.blocked[pair{from, to}] = true
}

// Partition blocks both directions between the nodes of two sides.
func (f *Faulty) Partition(side, other []string) {
	for _, a := range side {
		for _, b := range other {
			f.Block(a, b)
			f.Block(b, a)
		}
	}
}

// Heal ends all blocks. What was held back arrives.
func (f *Faulty) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.blocked)
	close(f.changed)
	f.changed = make(chan struct{})
}

// Reset breaks the connections between two nodes.
func (f *Faulty) Reset(a, b string) {
	for _, c := range f.between(a, b) {
		c.fail(errReset)
	}
}

// Freeze makes the connections between two nodes half-open: they carry nothing more, and
// neither side is told.
func (f *Faulty) Freeze(a, b string) {
	for _, c := range f.between(a, b) {
		c.freeze()
	}
}

func (f *Faulty) between(a, b string) []*faultyConn {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []*faultyConn
	for c := range f.conns {
		if p := f.direction(c); p == (pair{a, b}) || p == (pair{b, a}) {
			list = append(list, c)
		}
	}
	return list
}

// direction returns from which node to which a connection's end writes; mu is held. The
// other end's node is known by then: it listens, or has noted where it dialled from.
func (f *Faulty) direction(c *faultyConn) pair {
	return pair{c.node, f.nodes[c.inner.RemoteAddress()]}
}

// open waits until a direction is not blocked, or ctx ends.
func (f *Faulty) open(ctx context.Context, direction func() pair) error {
	for {
		f.mu.Lock()
		blocked, changed := f.blocked[direction()], f.changed
		f.mu.Unlock()
		if !blocked {
			return ctx.Err()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// faultyNode is a Faulty network as one node sees it.
type faultyNode struct {
	network *Faulty
	name    string
}

func (n *faultyNode) Dial(ctx context.Context, address string) (Conn, error) {
	f := n.network
	for _, direction := range []func() pair{
		func() pair { return pair{n.name, f.nodes[address]} },
		func() pair { return pair{f.nodes[address], n.name} },
	} {
		if err := f.open(ctx, direction); err != nil {
			return nil, err
		}
	}
	inner, err := f.inner.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	return f.wrap(inner, n.name, inner.LocalAddress()), nil
}

func (n *faultyNode) Listen(address string) (Listener, error) {
	l, err := n.network.inner.Listen(address)
	if err != nil {
		return nil, err
	}
	n.network.mu.Lock()
	n.network.nodes[l.Address()] = n.name
	n.network.mu.Unlock()
	return &faultyListener{Listener: l, node: n}, nil
}

type faultyListener struct {
	Listener
	node *faultyNode
}

func (l *faultyListener) Accept() (Conn, error) {
	inner, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.node.network.wrap(inner, l.node.name, ""), nil
}

// wrap makes a connection's end faulty. dialled is the address to note the node by.
func (f *Faulty) wrap(inner Conn, node, dialled string) Conn {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.number++
	c := &faultyConn{network: f, inner: inner, node: node, dialled: dialled, random: rand.New(rand.NewPCG(f.seed, f.number))}
	c.changed.L = &c.mu
	if dialled != "" {
		f.nodes[dialled] = node
	}
	f.conns[c] = struct{}{}
	f.pumps.Go(c.pumpOut)
	f.pumps.Go(c.pumpIn)
	return c
}

// faultyConn is one end of a connection. What is written to it goes through a queue, from
// which pumpOut passes it on; pumpIn receives, so that Close need not close the inner
// connection to wake a reader: the other side must not hear of it through a blocked network.
type faultyConn struct {
	network *Faulty
	inner   Conn
	node    string
	dialled string
	random  *rand.Rand // for pumpOut only

	mu      sync.Mutex
	changed sync.Cond
	out     [][]byte // written and not passed on
	queued  int      // bytes of out
	in      []byte   // received and not read
	inErr   error    // what comes after in
	closed  bool     // this end was closed
	frozen  bool
	err     error // the connection was broken
}

func (c *faultyConn) LocalAddress() string  { return c.inner.LocalAddress() }
func (c *faultyConn) RemoteAddress() string { return c.inner.RemoteAddress() }

// ended returns why nothing can be read or written any more, or nil; mu is held.
func (c *faultyConn) ended() error {
	if c.closed {
		return net.ErrClosed
	}
	return c.err
}

func (c *faultyConn) Read(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(b) > 0 && c.ended() == nil && (c.frozen || len(c.in) == 0 && c.inErr == nil) {
		c.changed.Wait()
	}
	switch {
	case c.ended() != nil:
		return 0, c.ended()
	case len(c.in) == 0 && len(b) > 0:
		return 0, c.inErr
	}
	n := copy(b, c.in)
	c.in = c.in[n:]
	c.changed.Broadcast()
	return n, nil
}

func (c *faultyConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.queued >= faultyQueueBytes && c.ended() == nil {
		c.changed.Wait()
	}
	if err := c.ended(); err != nil || len(b) == 0 {
		return 0, err
	}
	c.out = append(c.out, slices.Clone(b))
	c.queued += len(b)
	c.changed.Broadcast()
	return len(b), nil
}

// Close closes this end. What was written before is still passed on.
func (c *faultyConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.changed.Broadcast()
	return nil
}

// fail breaks the connection for both sides.
func (c *faultyConn) fail(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.changed.Broadcast()
	c.mu.Unlock()
	c.inner.Close()
}

func (c *faultyConn) freeze() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frozen = true
	c.changed.Broadcast()
}

// pumpOut passes on what is written, with the faults of the network, until there will be no
// more, and then closes the connection.
func (c *faultyConn) pumpOut() {
	f := c.network
	defer f.forget(c)
	defer c.inner.Close()
	for {
		b, ok := c.next()
		if !ok {
			f.open(f.ctx, func() pair { return f.direction(c) })
			return
		}
		f.mu.Lock()
		faults := f.faults
		f.mu.Unlock()
		// Each piece draws the same numbers, whatever the faults are.
		delay, reset, freeze, corrupt := c.random.Float64(), c.random.Float64(), c.random.Float64(), c.random.Float64()
		bit := c.random.IntN(len(b) * 8)
		f.clk.Sleep(f.ctx, faults.DelayMin+time.Duration(delay*float64(faults.DelayMax-faults.DelayMin)))
		if f.open(f.ctx, func() pair { return f.direction(c) }) != nil {
			return
		}
		switch {
		case reset < faults.Reset:
			c.fail(errReset)
			return
		case freeze < faults.Freeze:
			c.freeze()
			continue
		case corrupt < faults.Corrupt:
			b[bit/8] ^= 1 << (bit % 8)
		}
		if _, err := c.inner.Write(b); err != nil {
			c.fail(err)
			return
		}
	}
}

// next takes a piece out of the queue; false when there will be none.
func (c *faultyConn) next() ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.err == nil && (c.frozen || len(c.out) == 0 && !c.closed) {
		c.changed.Wait()
	}
	if c.err != nil || len(c.out) == 0 {
		return nil, false
	}
	b := c.out[0]
	c.out = c.out[1:]
	c.queued -= len(b)
	c.changed.Broadcast()
	return b, true
}

// pumpIn receives until the connection ends.
func (c *faultyConn) pumpIn() {
	for {
		b := make([]byte, 32<<10)
		n, err := c.inner.Read(b)
		c.mu.Lock()
		for len(c.in) > 0 && c.ended() == nil {
			c.changed.Wait()
		}
		c.in, c.inErr = b[:n], err
		c.changed.Broadcast()
		stop := err != nil || c.err != nil || c.closed
		c.mu.Unlock()
		if stop {
			return
		}
	}
}

func (f *Faulty) forget(c *faultyConn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.conns, c)
	if c.dialled != "" {
		delete(f.nodes, c.dialled)
	}
}
