package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"strconv"
	"sync"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/rpc"
)

const (
	// processPort and proxyPort are used on each node's own loopback address, so they are
	// taken only if somebody listens on all addresses.
	processPort, proxyPort = 7400, 7401
	// nodesMax bounds the nodes of a network: each has an address of its own.
	nodesMax = 200
	// connsMax bounds the connections of all proxies; further ones are reset.
	connsMax = 4096
)

// Proxies is a Network on loopback addresses, for which no rights are needed. Each node has an
// address of its own in 127.0.0.0/8, as Linux has them without being told. Its process listens
// there, and comes from there when it calls others, see [rpc.TCPFrom]; what others are told is
// the address of a proxy in front of it. So the proxy knows who calls, and can hold back, slow
// down or break what goes each way between two nodes.
type Proxies struct {
	clk    clock.Clock
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu      sync.Mutex
	subnet  string // the first three numbers of every node's address
	nodes   map[string]*node
	links   map[pair]Link
	changed chan struct{} // closed when links change
	conns   map[*proxied]struct{}
	closed  bool
}

var _ Network = (*Proxies)(nil)

// node is a node with its proxy.
type node struct {
	name, host string
	listener   rpc.Listener // of the proxy; nil for a client, whom nobody calls
}

// NewProxies returns a network without nodes. Close ends it.
func NewProxies(clk clock.Clock) *Proxies {
	ctx, cancel := context.WithCancel(context.Background())
	return &Proxies{clk: clk, ctx: ctx, cancel: cancel, nodes: map[string]*node{}, links: map[pair]Link{},
		changed: make(chan struct{}), conns: map[*proxied]struct{}{}}
}

// Add implements Network.
func (p *Proxies) Add(name string) (listen, advertise string, err error) {
	n, err := p.add(name, true)
	if err != nil {
		return "", "", err
	}
	p.work.Go(func() { p.accept(n) })
	return net.JoinHostPort(n.host, strconv.Itoa(processPort)), n.listener.Address(), nil
}

// Client implements Network.
func (p *Proxies) Client(name string) (rpc.Network, error) {
	n, err := p.add(name, false)
	if err != nil {
		return nil, err
	}
	return rpc.TCPFrom(n.host), nil
}

// Command implements Network: the program runs as it is.
func (p *Proxies) Command(_, program string, args ...string) *exec.Cmd {
	return exec.Command(program, args...)
}

// add gives a node an address. The first proxy chooses the subnet: one in which nobody has a
// proxy.
func (p *Proxies) add(name string, listens bool) (*node, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, net.ErrClosed
	}
	if p.nodes[name] != nil || len(p.nodes) >= nodesMax {
		return nil, quarry.Errorf("proxy", quarry.Invalid, name, "there is such a node already, or there are %d", nodesMax)
	}
	n := &node{name: name}
	for tries := 0; ; tries++ {
		subnet := p.subnet
		if subnet == "" { // where two runs cannot meet but by chance, and then Listen tells
			subnet = fmt.Sprintf("127.%d.%d", 16+rand.IntN(200), 1+rand.IntN(250))
		}
		n.host = fmt.Sprintf("%s.%d", subnet, len(p.nodes)+1)
		var err error
		if listens {
			n.listener, err = rpc.TCP.Listen(net.JoinHostPort(n.host, strconv.Itoa(proxyPort)))
		}
		if err == nil {
			p.subnet = subnet
			break
		}
		if p.subnet != "" || tries >= 100 {
			return nil, quarry.Errorf("proxy", quarry.Unavailable, n.host, "the port %d of a loopback address is needed: %w", proxyPort, err)
		}
	}
	p.nodes[name] = n
	return n, nil
}

// accept takes the connections to a node.
func (p *Proxies) accept(n *node) {
	for {
		c, err := n.listener.Accept()
		if err != nil {
			if p.ctx.Err() != nil || p.clk.Sleep(p.ctx, acceptPause) != nil {
				return
			}
			continue
		}
		pc := &proxied{p: p, from: p.caller(c), to: n.name, near: c}
		if !p.enter(pc) {
			abort(c)
			continue
		}
		p.work.Go(func() {
			pc.run(net.JoinHostPort(n.host, strconv.Itoa(processPort)))
			p.mu.Lock()
			delete(p.conns, pc)
			p.mu.Unlock()
		})
	}
}

// caller returns the node that a connection comes from; "" for one that is not a node, whom
// no fault concerns.
func (p *Proxies) caller(c rpc.Conn) string {
	host, _, _ := net.SplitHostPort(c.RemoteAddress()) // it is the system's
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range p.nodes {
		if n.host == host {
			return n.name
		}
	}
	return ""
}

// enter counts a connection; false if there is no room, or the network is being closed.
func (p *Proxies) enter(pc *proxied) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.conns) >= connsMax {
		return false
	}
	p.conns[pc] = struct{}{}
	return true
}

// link returns what happens from one node to another, and a channel that is closed when that
// changes.
func (p *Proxies) link(from, to string) (Link, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.links[pair{from, to}], p.changed
}

// Set implements Network.
func (p *Proxies) Set(from, to string, link Link) error {
	if link.Loss != 0 {
		return quarry.Errorf("link", quarry.Unsupported, to, "a proxy of connections loses no packets")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range []string{from, to} {
		if p.nodes[name] == nil {
			return quarry.Errorf("link", quarry.NotFound, name, "there is no such node")
		}
	}
	if link == (Link{}) {
		delete(p.links, pair{from, to})
	} else {
		p.links[pair{from, to}] = link
	}
	p.wakeLocked()
	return nil
}

// Heal implements Network.
func (p *Proxies) Heal() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.links)
	p.wakeLocked()
	return nil
}

func (p *Proxies) wakeLocked() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// Reset implements Network.
func (p *Proxies) Reset(a, b string) error {
	for _, pc := range p.between(func(pc *proxied) bool {
		return pc.from == a && pc.to == b || pc.from == b && pc.to == a
	}) {
		pc.reset()
	}
	return nil
}

func (p *Proxies) between(which func(*proxied) bool) (out []*proxied) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for pc := range p.conns {
		if which(pc) {
			out = append(out, pc)
		}
	}
	return out
}

// Close implements Network. It returns when nothing runs any more.
func (p *Proxies) Close() error {
	p.mu.Lock()
	p.closed = true
	p.cancel()
	for _, n := range p.nodes {
		if n.listener != nil {
			n.listener.Close()
		}
	}
	p.mu.Unlock()
	for _, pc := range p.between(func(*proxied) bool { return true }) {
		pc.reset()
	}
	p.work.Wait()
	return nil
}
