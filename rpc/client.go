package rpc

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quarryfs/quarry/clock"
)

// ClientConfig says how a process connects to others. Network, Clock and Identity must be set.
type ClientConfig struct {
	Network Network
	Clock   clock.Clock
	// Identity tells who this process is at this time; called for every handshake.
	Identity func() Identity
	// Key is the cluster's secret; nil: the cluster has none.
	Key []byte
	// Check may refuse a server after its handshake; nil: none is refused.
	Check func(address string, server Peer) error
	// Logger gets broken connections; nil: nobody does.
	Logger *slog.Logger

	// DialTime bounds connecting, the handshake included. Default 3 s.
	DialTime time.Duration
	// DialTimeMax is what DialTime grows to, twice as long each time, while a server takes connections
	// and is too busy for the handshakes: a thousand that give up and begin again keep it so. Default:
	// it does not grow.
	DialTimeMax time.Duration
	// KeepAlive is as in ServerConfig.
	KeepAlive time.Duration
	// IdleTime is how long a connection without requests is kept. Default 2 min.
	IdleTime time.Duration
	// BulkConns is the most connections of LaneBulk to one server. Default 8.
	BulkConns int
	// QueueMax bounds the bytes that wait to be written to one connection; beyond it
	// callers wait, and messages are refused with Busy. Default 16 MiB.
	QueueMax int64
}

func (c ClientConfig) withDefaults() ClientConfig {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.DialTime == 0 {
		c.DialTime = 3 * time.Second
	}
	if c.KeepAlive == 0 {
		c.KeepAlive = defaultKeepAlive
	}
	c.KeepAlive = min(c.KeepAlive, keepAliveMax)
	if c.IdleTime == 0 {
		c.IdleTime = 2 * time.Minute
	}
	if c.BulkConns == 0 {
		c.BulkConns = 8
	}
	if c.QueueMax == 0 {
		c.QueueMax = 16 << 20
	}
	return c
}

// redialTime is how long the failure of a connection attempt is the answer to others.
const redialTime = 100 * time.Millisecond

// Client connects a process to any number of servers. It connects when a call needs it, and
// again at the next call after a connection was lost. Safe for use by many goroutines.
//
// A call that fails with Unavailable may or may not have been served.
type Client struct {
	config ClientConfig
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // goroutines of connections, and tend

	// signals are channels on which callers wait; each is empty when it comes back. The pool
	// is the client's own because a channel of one testing/synctest bubble cannot be used in
	// another.
	signals sync.Pool

	made atomic.Uint64 // connections

	mu      sync.Mutex
	remotes map[string]*remote
	conns   map[*clientConn]struct{}
	bulk    map[*bulkConn]struct{}
	closed  bool
}

// remote is one server.
type remote struct {
	client  *Client
	address string

	mu    sync.Mutex
	slots map[slotKey]*slot
	bulk  bulkPool
	slow  time.Duration // more than DialTime: handshakes took longer than that
}

type slotKey struct {
	lane   Lane
	stripe uint64
}

// slot is the place of a connection that many callers share.
type slot struct {
	conn     *clientConn
	dialing  chan struct{} // closed when the attempt under way has ended; nil: none is
	failed   error         // of the last attempt
	failedAt clock.Instant
}

// NewClient returns a client without connections.
func NewClient(config ClientConfig) *Client {
	ctx, cancel := context.WithCancel(context.Background())
	c := &Client{signals: sync.Pool{New: func() any { return make(chan error, 1) }}, config: config.withDefaults(), ctx: ctx, cancel: cancel,
		remotes: map[string]*remote{}, conns: map[*clientConn]struct{}{}, bulk: map[*bulkConn]struct{}{}}
	c.wg.Go(c.tend)
	return c
}

// Close ends all connections and calls with Unavailable, and returns when all callbacks have
// been called.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	c.cancel()
	for _, conn := range order(c.conns, func(l *clientConn) uint64 { return l.number }) {
		conn.close(net.ErrClosed)
	}
	for _, conn := range order(c.bulk, func(l *bulkConn) uint64 { return l.number }) {
		conn.close(net.ErrClosed)
	}
	c.mu.Unlock()
	c.wg.Wait()
	return nil
}

// Peer connects to the server at an address, if need be, and tells who it is.
func (c *Client) Peer(ctx context.Context, address string) (Peer, error) {
	conn, err := c.remote(address).shared(ctx, Route{Lane: LaneControl})
	if err != nil {
		return Peer{}, err
	}
	return *conn.peer, nil
}

func (c *Client) remote(address string) *remote {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.remotes[address]
	if r == nil {
		r = &remote{client: c, address: address, slots: map[slotKey]*slot{}}
		c.remotes[address] = r
	}
	return r
}

// shared returns the connection that a route takes, and connects if there is none.
func (r *remote) shared(ctx context.Context, route Route) (*clientConn, error) {
	key := slotKey{route.Lane, mix(route.Key) % route.Lane.stripes()}
	r.mu.Lock()
	s := r.slots[key]
	if s == nil {
		s = &slot{}
		r.slots[key] = s
	}
	for {
		if s.conn != nil && s.conn.usable() {
			conn := s.conn
			r.mu.Unlock()
			return conn, nil
		}
		clk := r.client.config.Clock
		if s.dialing == nil {
			if s.failed != nil && clk.Now().Sub(s.failedAt) < redialTime {
				err := s.failed
				r.mu.Unlock()
				return nil, err
			}
			// The attempt is for all who wait, so it does not end with this caller's context.
			dialing := make(chan struct{})
			s.dialing, s.conn = dialing, nil
			if !r.client.spawn(func() {
				conn, err := r.connectShared(r.client.ctx, route.Lane)
				r.mu.Lock()
				s.conn, s.failed, s.failedAt, s.dialing = conn, err, clk.Now(), nil
				r.mu.Unlock()
				close(dialing)
			}) {
				s.dialing = nil
				r.mu.Unlock()
				return nil, unavailable(r.address, net.ErrClosed)
			}
		}
		dialing := s.dialing
		r.mu.Unlock()
		select {
		case <-dialing:
		case <-ctx.Done():
			return nil, ended(ctx, r.address)
		}
		r.mu.Lock()
	}
}

// mix spreads keys, whose low bits may be alike, over the stripes.
func mix(key uint64) uint64 { return key * 0x9e3779b97f4a7c15 >> 32 }

// spawn runs f in a goroutine that Close waits for; false if the client is closed.
func (c *Client) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.wg.Go(f)
	return true
}

// connect makes a connection.
func (r *remote) connect(ctx context.Context, lane Lane) (*link, error) {
	config := &r.client.config
	r.mu.Lock()
	limit := max(config.DialTime, r.slow)
	r.mu.Unlock()
	ctx, cancel := config.Clock.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := config.Network.Dial(ctx, r.address)
	if err != nil {
		return nil, unavailable(r.address, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	l := newLink(conn)
	l.number = r.client.made.Add(1)
	p := party{identity: config.Identity(), key: config.Key, keepAlive: config.KeepAlive, rests: true}
	if config.Check != nil {
		p.check = func(server Peer) error { return config.Check(r.address, server) }
	}
	peer, err := p.greet(conn, l.reader, lane)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	r.mu.Lock()
	r.slow = 0
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		r.slow = min(2*limit, config.DialTimeMax)
	}
	r.mu.Unlock()
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = errors.Join(ctx.Err(), err)
		}
		config.Logger.Debug("cannot connect", "server", r.address, "error", err)
		return nil, unavailable(r.address, err)
	}
	l.complete(peer, lane, nil)
	return l, nil
}

// connectShared makes a connection that many callers share, and starts to read from it.
func (r *remote) connectShared(ctx context.Context, lane Lane) (*clientConn, error) {
	l, err := r.connect(ctx, lane)
	if err != nil {
		return nil, err
	}
	c := r.client
	conn := &clientConn{link: l, client: c, address: r.address, pending: map[uint64]*call{}}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		l.close(net.ErrClosed)
		return nil, unavailable(r.address, net.ErrClosed)
	}
	c.conns[conn] = struct{}{}
	c.wg.Go(func() {
		conn.close(conn.read())
		c.mu.Lock()
		delete(c.conns, conn)
		c.mu.Unlock()
		conn.end()
		c.config.Logger.Debug("connection ended", "server", conn.address, "error", conn.cause)
	})
	return conn, nil
}

// tend keeps the connections alive, finds the dead ones, and closes the idle ones.
func (c *Client) tend() {
	ticker := c.config.Clock.NewTicker(c.config.KeepAlive)
	defer ticker.Stop()
	idleTicks := int(c.config.IdleTime / c.config.KeepAlive)
	for {
		select {
		case <-ticker.C():
		case <-c.ctx.Done():
			return
		}
		c.mu.Lock()
		conns := order(c.conns, func(l *clientConn) uint64 { return l.number })
		bulk := order(c.bulk, func(l *bulkConn) uint64 { return l.number })
		c.mu.Unlock()
		for _, conn := range conns {
			if err := conn.tend(c.config.KeepAlive, conn.waits()); err != nil {
				conn.close(err)
			}
			conn.closeIdle(idleTicks)
		}
		for _, conn := range bulk {
			if err := conn.tend(c.config.KeepAlive, conn.busy.Load()); err != nil {
				conn.close(err)
			}
		}
		c.tidy(idleTicks)
	}
}

// tidy closes bulk connections that are idle, and drops servers to which there are none.
func (c *Client) tidy(idleTicks int) {
	c.mu.Lock()
	remotes := maps.Clone(c.remotes)
	c.mu.Unlock()
	for _, address := range slices.Sorted(maps.Keys(remotes)) {
		r := remotes[address]
		r.mu.Lock()
		r.closeIdle(idleTicks)
		if r.unused(c.config.Clock.Now()) {
			c.mu.Lock()
			delete(c.remotes, r.address)
			c.mu.Unlock()
		}
		r.mu.Unlock()
	}
}

// unused reports whether nothing would be lost with the remote. A caller that has it already
// just uses it on; the next one makes another. mu is held.
func (r *remote) unused(now clock.Instant) bool {
	for _, s := range r.slots {
		if s.dialing != nil || s.conn != nil && s.conn.usable() || s.failed != nil && now.Sub(s.failedAt) < max(redialTime, r.slow) {
			return false
		}
	}
	return r.bulk.open == 0 && len(r.bulk.waiting) == 0
}
