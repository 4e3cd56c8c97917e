package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/rpc/buffers"
)

// ServerConfig says how a server takes connections. Only Clock and Identity must be set.
type ServerConfig struct {
	Clock clock.Clock
	// Identity tells who this process is at this time; called for every handshake.
	Identity func() Identity
	// Key is the cluster's secret, at least 16 random bytes; nil: anybody may connect.
	Key []byte
	// Check may refuse a peer after its handshake; nil: none is refused.
	Check func(Peer) error
	// Logger gets refused connections, at most one line a second, and broken ones; nil: nobody does.
	Logger *slog.Logger

	// ConnectionsMax bounds the connections of clients and, apart from these, those of masters
	// and chunk servers: however many clients come, they shut no server out. Who comes then is
	// refused with Unavailable and told why. Default 4096. At most 1024 further ones of each
	// listener may be in their handshake, for 3 s each; those that come then wait.
	ConnectionsMax int
	// RequestsMax bounds the requests in service of one connection; beyond it nothing more
	// is read from there. Default 1024. Requests that wait for something to happen are
	// bounded apart, by four times as many, and refused with Busy beyond it.
	RequestsMax int
	// PayloadMax bounds the bytes of payloads in service, for each lane; beyond it those
	// that come have to wait. Default 256 MiB, at least PayloadBytesMax.
	PayloadMax int64
	// KeepAlive is how often this side looks after its connections. The interval of a
	// connection is the longer one of both sides' KeepAlive: each side sends something at
	// least that often, if only a sign of life, and gives the other one up when nothing has
	// come, or nothing could be sent, for three intervals; it notices that within two of its
	// own KeepAlive more. While no request is under way, all of that is five times as long. Default 2 s, at
	// most 10 s: more counts as 10 s.
	KeepAlive time.Duration
}

const (
	defaultKeepAlive = 2 * time.Second
	// handshakeTime is how long a handshake may take: a client waits no longer, either.
	handshakeTime = 3 * time.Second
	handshakesMax = 1024
	// refusalsEvery is how often it is logged that connections were refused.
	refusalsEvery = time.Second
)

func (c ServerConfig) withDefaults() ServerConfig {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.ConnectionsMax == 0 {
		c.ConnectionsMax = 4096
	}
	if c.RequestsMax == 0 {
		c.RequestsMax = 1024
	}
	if c.PayloadMax == 0 {
		c.PayloadMax = 256 << 20
	}
	c.PayloadMax = max(c.PayloadMax, PayloadBytesMax)
	if c.KeepAlive == 0 {
		c.KeepAlive = defaultKeepAlive
	}
	c.KeepAlive = min(c.KeepAlive, keepAliveMax)
	return c
}

// Server takes connections and serves the operations that were registered, with ServeMaster,
// ServeChunkServer, HandleRaw and HandleMessages, before the first call of Serve.
type Server struct {
	config   ServerConfig
	services [opMax]*service
	budgets  [laneMax + 1]buffers.Budget
	stop     chan struct{} // closed by Close

	mu        sync.Mutex
	changed   sync.Cond // a connection has gone
	listeners map[Listener]struct{}
	conns     map[Conn]struct{} // all, those in their handshake included
	links     map[*serverConn]struct{}
	clients   int    // connections past their handshake, of clients
	servers   int    // and of masters and chunk servers
	made      uint64 // links, so far
	refusals  refusals
	closed    bool
	going     bool // Shutdown was called
	tending   bool
}

// refusals are the connections that were refused since that was logged the last time.
type refusals struct {
	count int
	peer  string // the last of them
	err   error
	told  clock.Instant // 0: nothing was logged yet
}

// service is an operation as the server sees it, its types erased.
type service struct {
	name       string
	bodyMax    int64
	payloadMax int64
	parked     bool
	message    bool // no reply is wanted
	// serve decodes the body and starts to serve the request. It is called by the reading
	// goroutine, in the order in which requests come. It finishes the request, once, and
	// does not use body after it has returned.
	serve func(in *inbound, body []byte)
}

// NewServer returns a server without operations.
func NewServer(config ServerConfig) *Server {
	s := &Server{config: config.withDefaults(), stop: make(chan struct{}),
		listeners: map[Listener]struct{}{}, conns: map[Conn]struct{}{}, links: map[*serverConn]struct{}{}}
	s.changed.L = &s.mu
	for i := range s.budgets {
		s.budgets[i].Total = s.config.PayloadMax
	}
	return s
}

// register makes an operation known. That one is registered twice is a mistake in the program.
func (s *Server) register(op Op, v *service) {
	if op >= opMax || s.services[op] != nil {
		panic(fmt.Sprintf("rpc: operation %d (%s) cannot be registered", op, v.name))
	}
	s.services[op] = v
}

// Serve takes connections until the listener or the server is closed, and then returns nil.
// It closes the listener. It may be called for several listeners.
func (s *Server) Serve(l Listener) error {
	defer l.Close()
	s.mu.Lock()
	if s.closed || s.going {
		s.mu.Unlock()
		return nil
	}
	s.listeners[l] = struct{}{}
	if !s.tending {
		s.tending = true
		go s.tend()
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
	}()
	shaking := make(chan struct{}, handshakesMax) // a token for each connection in its handshake, or about to be taken
	for {
		select {
		case shaking <- struct{}{}:
		case <-s.stop:
			return nil
		}
		conn, err := l.Accept()
		if err == nil {
			s.take(conn, shaking)
			continue
		}
		<-shaking
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		default:
			// Too many open files, most likely: what is being served may end.
			s.config.Logger.Warn("cannot take connections", "address", l.Address(), "error", err)
			if !s.pause(100 * time.Millisecond) {
				return nil
			}
		}
	}
}

// pause waits; false if the server is closed meanwhile.
func (s *Server) pause(d time.Duration) bool {
	timer := s.config.Clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C():
		return true
	case <-s.stop:
		return false
	}
}

// take starts to serve a connection. It gives back the token of the handshake.
func (s *Server) take(conn Conn, shaking <-chan struct{}) {
	s.mu.Lock()
	if s.closed || s.going {
		s.mu.Unlock()
		conn.Close()
		<-shaking
		return
	}
	s.conns[conn] = struct{}{}
	s.mu.Unlock()
	go func() {
		s.serve(conn, shaking)
		s.mu.Lock()
		delete(s.conns, conn)
		s.changed.Broadcast()
		s.mu.Unlock()
	}()
}

// serve does a connection's handshake and then serves its requests until it ends.
func (s *Server) serve(conn Conn, shaking <-chan struct{}) {
	defer conn.Close()
	c := &serverConn{link: newLink(conn), server: s, requests: map[uint64]*inbound{}}
	c.free.L = &c.mu
	peer, lane, admitted, err := s.greet(conn, c.reader)
	<-shaking
	if admitted != nil {
		defer s.leave(admitted)
	}
	if err != nil {
		s.refuse(conn.RemoteAddress(), err)
		return
	}
	c.complete(peer, lane, c.replied)
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.made++
	c.number = s.made
	s.links[c] = struct{}{}
	going := s.going
	s.mu.Unlock()
	if going {
		c.goAway()
	}
	err = c.read()
	c.close(err)
	s.mu.Lock()
	delete(s.links, c)
	s.mu.Unlock()
	c.writer.close()
	s.config.Logger.Debug("connection ended", "peer", peer.Address, "role", peer.Role, "error", c.cause)
}

// greet does the server's part of a handshake, and tells the other side if it is refused: that
// one has then said all that it says before it hears the outcome, so that nothing unread makes
// the system break the connection before the refusal is there. admitted is the count in which
// the connection is, if it is in one.
func (s *Server) greet(conn Conn, r *frameReader) (peer *Peer, lane Lane, admitted *int, err error) {
	p := party{identity: s.config.Identity(), key: s.config.Key, keepAlive: s.config.KeepAlive, rests: true}
	p.check = func(peer Peer) (err error) {
		if s.config.Check != nil {
			err = s.config.Check(peer)
		}
		if err == nil {
			admitted, err = s.admit(peer.Role)
		}
		return err
	}
	ctx, cancel := s.config.Clock.WithTimeout(context.Background(), handshakeTime)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	peer, lane, err = p.receive(conn, r)
	if !stop() {
		return nil, 0, admitted, fmt.Errorf("the handshake took more than %v", handshakeTime)
	}
	if err != nil {
		_, _ = conn.Write(refusal(err)) // it is in nobody's way: little was written before
	}
	return peer, lane, admitted, err
}

// admit counts a connection whose handshake is over, or refuses it if there are too many.
func (s *Server) admit(role Role) (*int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	count, whose := &s.clients, "clients"
	if role == RoleMaster || role == RoleChunkServer {
		count, whose = &s.servers, "masters and chunk servers"
	}
	if *count >= s.config.ConnectionsMax {
		return nil, quarry.Errorf("connect", quarry.Unavailable, "",
			"the server has %d connections of %s already, which is as many as it takes; there is room when others have left", *count, whose)
	}
	*count++
	return count, nil
}

// leave undoes admit.
func (s *Server) leave(admitted *int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*admitted--
}

// refuse notes that a connection was refused.
func (s *Server) refuse(peer string, err error) {
	s.mu.Lock()
	s.refusals.count++
	s.refusals.peer, s.refusals.err = peer, err
	s.mu.Unlock()
	s.tellRefusals()
}

// tellRefusals logs that connections were refused, if that is due.
func (s *Server) tellRefusals() {
	now := s.config.Clock.Now()
	s.mu.Lock()
	r := s.refusals
	due := r.count > 0 && (r.told == 0 || now.Sub(r.told) >= refusalsEvery)
	if due {
		s.refusals = refusals{told: now}
	}
	s.mu.Unlock()
	if due {
		s.config.Logger.Warn("connection refused", "peer", r.peer, "error", r.err, "count", r.count)
	}
}

// refusal is the frame that tells a client why its handshake failed.
func refusal(err error) []byte {
	b, _ := appendFrame(nil, head{kind: kindError}, encodeError(err), errorFields)
	return b
}

// tend keeps the connections alive and finds the dead ones.
func (s *Server) tend() {
	ticker := s.config.Clock.NewTicker(s.config.KeepAlive)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C():
		case <-s.stop:
			return
		}
		for _, c := range s.connected() {
			if err := c.tend(s.config.KeepAlive, c.waits()); err != nil {
				c.close(err)
			}
		}
		s.tellRefusals()
	}
}

func (s *Server) connected() []*serverConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inOrder()
}

// inOrder returns the links in the order in which they were made; mu is held.
func (s *Server) inOrder() []*serverConn {
	return order(s.links, func(c *serverConn) uint64 { return c.number })
}

// Shutdown stops taking connections, has the clients send no more requests, and waits until
// those in service are answered or ctx ends; then it closes the server.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.going = true
	for l := range s.listeners {
		l.Close()
	}
	s.mu.Unlock()
	for _, c := range s.connected() {
		c.goAway()
	}
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changed.Broadcast()
	})
	defer stop()
	s.mu.Lock()
	for len(s.conns) > 0 && ctx.Err() == nil && !s.closed {
		s.changed.Wait()
	}
	s.mu.Unlock()
	return s.Close()
}

// Close ends all connections and returns when nothing is read from them or written to them
// any more. Handlers that are still at work find their contexts ended; Close does not wait
// for them.
func (s *Server) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.stop)
	}
	for l := range s.listeners {
		l.Close()
	}
	for _, c := range s.inOrder() {
		c.close(net.ErrClosed)
	}
	for conn := range s.conns {
		conn.Close()
	}
	for len(s.conns) > 0 {
		s.changed.Wait()
	}
	s.mu.Unlock()
	return nil
}
