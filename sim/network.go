package sim

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/rpc"
)

// Link is what the network is like from one host to another one; the zero Link is perfect
// and takes no time.
type Link struct {
	// Delay is how long a piece takes at least, and Jitter how much longer at most. Pieces
	// of one connection keep their order, those of different connections do not.
	Delay, Jitter time.Duration
	// Loss is the chance that a piece is lost. As it is with TCP it then comes after the
	// sender has tried again, each time after a longer time.
	Loss float64
	// Reset is the chance that a piece breaks its connection, which both sides see.
	Reset float64
	// Twice is the chance that a request or message is given to the server again, at once or
	// with what comes next; Late that a message is held back until then, Drop that it is lost.
	Twice, Late, Drop float64
	// Old is the chance that a request is given to the server once more seconds later, when
	// what it is about has long gone on.
	Old float64
	// Blocked: nothing goes this way. What was sent arrives some time after the end of that.
	Blocked bool
}

// retransmitTime is how long a sender waits before it sends a lost piece again; the next time
// twice as long.
const retransmitTime = 200 * time.Millisecond

// synTimes are the times, from the first attempt, at which a dialler knocks.
var synTimes = []time.Duration{0, time.Second, 3 * time.Second, 7 * time.Second}

// Network joins the hosts of a world. It is the part of TCP that programs see, and what goes
// wrong with it: delays, losses that come out as delays, connections that break, directions
// that carry nothing, and connections of which one end is gone without a word.
type Network struct {
	w   *World
	log *Log

	mu        sync.Mutex
	base      Link // of all that have none of their own
	links     map[direction]Link
	listeners map[string]*listener
	hosts     map[string]*Host // by address, without port
	dials     map[direction]uint64
	conns     map[*conn]struct{} // open ends
}

// direction is from one host to another one.
type direction struct{ from, to *Host }

func newNetwork(w *World, log *Log) *Network {
	return &Network{w: w, log: log, links: map[direction]Link{}, listeners: map[string]*listener{}, hosts: map[string]*Host{},
		dials: map[direction]uint64{}, conns: map[*conn]struct{}{}}
}

// SetAll makes the network the same everywhere, and ends all that was set for single links.
func (n *Network) SetAll(l Link) {
	n.mu.Lock()
	n.base = l
	changed := n.links
	n.links = map[direction]Link{}
	n.mu.Unlock()
	for d := range changed {
		n.release(d)
	}
}

// Set changes one direction between two hosts.
func (n *Network) Set(from, to *Host, change func(*Link)) {
	d := direction{from, to}
	n.mu.Lock()
	l, ok := n.links[d]
	if !ok {
		l = n.base
	}
	change(&l)
	n.links[d] = l
	n.mu.Unlock()
	if !l.Blocked {
		n.release(d)
	}
}

// Heal gives one direction between two hosts back to what is the same everywhere.
func (n *Network) Heal(from, to *Host) {
	d := direction{from, to}
	n.mu.Lock()
	delete(n.links, d)
	n.mu.Unlock()
	n.release(d)
}

// release lets go what waits for a direction to be free. Each pipe has its own delay, so the
// order in which they are found is of no account.
func (n *Network) release(d direction) {
	n.mu.Lock()
	var pipes []*pipe
	for c := range n.conns {
		if c.out.direction == d {
			pipes = append(pipes, c.out)
		}
	}
	n.mu.Unlock()
	for _, p := range pipes {
		p.unblock()
	}
}

// Break resets the connections between two hosts; both sides see it.
func (n *Network) Break(a, b *Host) {
	for _, c := range n.ends(func(c *conn) bool {
		return c.out.direction == (direction{a, b}) || c.out.direction == (direction{b, a})
	}) {
		c.fail(syscall.ECONNRESET)
	}
}

// ends returns the open ends of connections for which f holds.
func (n *Network) ends(f func(*conn) bool) []*conn {
	n.mu.Lock()
	defer n.mu.Unlock()
	var list []*conn
	for c := range n.conns {
		if f(c) {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b *conn) int { return cmp.Compare(a.out.key, b.out.key) })
	return list
}

// link returns what a direction is like.
func (n *Network) link(d direction) Link {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l, ok := n.links[d]; ok {
		return l
	}
	return n.base
}

// of returns the network as a process on a host sees it.
func (n *Network) of(h *Host, p *process) rpc.Network { return &place{n, h, p} }

// place is the network as seen from a process.
type place struct {
	n *Network
	h *Host
	p *process
}

// Listen implements rpc.Network.
func (l *place) Listen(address string) (rpc.Listener, error) {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	if host, ok := strings.CutSuffix(address, ":0"); ok {
		for port := 40000; ; port++ {
			address = fmt.Sprintf("%s:%d", host, port)
			if l.n.listeners[address] == nil {
				break
			}
		}
	}
	if l.n.listeners[address] != nil {
		return nil, opError("listen", address, syscall.EADDRINUSE)
	}
	ln := &listener{place: *l, address: address, backlog: make(chan *conn, 128), closed: make(chan struct{})}
	l.n.listeners[address] = ln
	return ln, nil
}

// Dial implements rpc.Network. A host that is down or cut off does not answer; one that is up
// and has no listener refuses.
func (l *place) Dial(ctx context.Context, address string) (rpc.Conn, error) {
	host := l.n.host(address)
	if host == nil {
		return nil, opError("dial", address, syscall.EHOSTUNREACH)
	}
	d := direction{l.h, host}
	l.n.mu.Lock()
	l.n.dials[d]++
	number := l.n.dials[d]
	l.n.mu.Unlock()
	dl := &dial{place: *l, address: address, d: d, number: number, answer: make(chan dialled, 1)}
	var waiting []*event
	for i, after := range synTimes {
		// The dialler's own system knocks: it does so while the process is held still.
		at := l.n.w.Now().Add(after + dl.delay(d, uint64(2*i)))
		waiting = append(waiting, l.n.w.schedule(at, mix("syn", uint64(l.h.number), number, uint64(i)), nil, func() { dl.knock(uint64(2*i + 1)) }))
	}
	defer func() {
		for _, e := range waiting {
			l.n.w.cancel(e)
		}
	}()
	select {
	case a := <-dl.answer:
		return a.conn, a.err
	case <-ctx.Done():
		dl.abandon()
		return nil, ctx.Err()
	}
}

// host returns the host with an address.
func (n *Network) host(address string) *Host {
	name, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hosts[name]
}

// dial is an attempt to connect.
type dial struct {
	place
	address string
	d       direction
	number  uint64
	answer  chan dialled

	mu   sync.Mutex
	over bool // it has been answered, or given up
	left bool // nobody waits any more
}

type dialled struct {
	conn rpc.Conn
	err  error
}

func (dl *dial) delay(d direction, part uint64) time.Duration {
	l := dl.n.link(d)
	r := dl.n.w.chance("dial", uint64(d.from.number), uint64(d.to.number), dl.number, part)
	return l.Delay + jitter(r.Float64(), l.Jitter)
}

// jitter draws how much longer something takes: usually little, seldom most of it.
func jitter(x float64, most time.Duration) time.Duration {
	return time.Duration(x * x * x * float64(most))
}

// knock is the arrival of a dialler at the host.
func (dl *dial) knock(part uint64) {
	back := direction{dl.d.to, dl.d.from}
	there, here := dl.n.link(dl.d), dl.n.link(back)
	if there.Blocked || here.Blocked || dl.d.to.down() || dl.place.p.gone() {
		return
	}
	r := dl.n.w.chance("syn", uint64(dl.d.from.number), uint64(dl.d.to.number), dl.number, part)
	if r.Float64() < there.Loss || r.Float64() < here.Loss {
		return
	}
	dl.mu.Lock()
	defer dl.mu.Unlock()
	if dl.over {
		return
	}
	dl.over = true
	a := dialled{err: opError("dial", dl.address, syscall.ECONNREFUSED)}
	dl.n.mu.Lock()
	l := dl.n.listeners[dl.address]
	dl.n.mu.Unlock()
	if l != nil && !l.p.gone() {
		ours, theirs := newConns(dl, l)
		select {
		case l.backlog <- theirs:
			a = dialled{conn: ours}
		default: // full: refused
		}
	}
	at := dl.n.w.Now().Add(dl.delay(back, part))
	dl.n.w.schedule(at, mix("ack", uint64(dl.d.from.number), dl.number), dl.h, func() { dl.end(a) })
}

// end gives the dialler its answer. A connection that it no longer waits for is closed.
func (dl *dial) end(a dialled) {
	dl.mu.Lock()
	left := dl.left
	dl.mu.Unlock()
	if !left {
		dl.answer <- a
	} else if a.conn != nil {
		a.conn.Close()
	}
}

// abandon gives the attempt up.
func (dl *dial) abandon() {
	dl.mu.Lock()
	dl.over, dl.left = true, true
	dl.mu.Unlock()
	select {
	case a := <-dl.answer: // it came at the same instant
		if a.conn != nil {
			a.conn.Close()
		}
	default:
	}
}

// listener is an address at which a process takes connections.
type listener struct {
	place
	address string
	backlog chan *conn
	closed  chan struct{}
	once    sync.Once
}

// Accept implements rpc.Listener.
func (l *listener) Accept() (rpc.Conn, error) {
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-l.backlog:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Address implements rpc.Listener.
func (l *listener) Address() string { return l.address }

// Close implements rpc.Listener.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.n.mu.Lock()
		if l.n.listeners[l.address] == l {
			delete(l.n.listeners, l.address)
		}
		l.n.mu.Unlock()
		close(l.closed)
		for {
			select {
			case c := <-l.backlog:
				c.Close()
			default:
				return
			}
		}
	})
	return nil
}

// opError is an error as package net has them.
func opError(op, address string, errno syscall.Errno) error {
	return fmt.Errorf("%s %s: %w", op, address, os.NewSyscallError(op, errno))
}

// arrival reckons when a piece arrives that sets out at an instant.
func (n *Network) arrival(p *pipe, l Link, from clock.Instant) (at clock.Instant, reset bool) {
	r := n.w.chance("piece", p.key, uint64(p.sent))
	at = from.Add(l.Delay + jitter(r.Float64(), l.Jitter))
	for wait := retransmitTime; r.Float64() < l.Loss && wait < 10*time.Second; wait *= 2 {
		at = at.Add(wait)
	}
	return at, r.Float64() < l.Reset
}
