package rpc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

var testKey = []byte("0123456789abcdef0123456789abcdef")

func TestHandshake(t *testing.T) {
	other := quarry.ClusterID{9, 9}
	tests := []struct {
		name   string
		server func(*ServerConfig)
		client func(*ClientConfig)
		kind   quarry.Kind // 0: success
		text   []string
		proven bool
	}{
		{name: "no key"},
		{name: "key", server: func(c *ServerConfig) { c.Key = testKey }, client: func(c *ClientConfig) { c.Key = testKey }, proven: true},
		{name: "wrong key", server: func(c *ServerConfig) { c.Key = testKey }, client: func(c *ClientConfig) { c.Key = []byte("another key") },
			kind: quarry.Permission, text: []string{"does not know the cluster's key"}},
		{name: "client without key", server: func(c *ServerConfig) { c.Key = testKey }, kind: quarry.Permission, text: []string{"was not given it"}},
		{name: "server without key", client: func(c *ClientConfig) { c.Key = testKey }, kind: quarry.Permission, text: []string{"the server does not know"}},
		{name: "wrong cluster", client: func(c *ClientConfig) {
			c.Identity = func() Identity { return Identity{Cluster: other, Role: RoleClient} }
		},
			kind: quarry.WrongCluster, text: []string{testCluster.String(), other.String()}},
		{name: "wrong cluster and key", server: func(c *ServerConfig) { c.Key = testKey },
			client: func(c *ClientConfig) {
				c.Identity = func() Identity { return Identity{Cluster: other, Role: RoleClient} }
			},
			kind: quarry.WrongCluster, text: []string{testCluster.String(), other.String()}},
		{name: "client of no cluster", client: func(c *ClientConfig) { c.Identity = func() Identity { return Identity{Role: RoleClient} } }},
		{name: "server of no cluster", server: func(c *ServerConfig) { c.Identity = func() Identity { return Identity{Role: RoleMaster} } }},
		{name: "refused by the server", server: func(c *ServerConfig) {
			c.Check = func(p Peer) error { return quarry.Errorf("hello", quarry.Permission, "", "not you, %s", p.Role) }
		}, kind: quarry.Permission, text: []string{"not you, client"}},
		{name: "refused by the client", client: func(c *ClientConfig) {
			c.Check = func(address string, p Peer) error {
				return quarry.Errorf("hello", quarry.StaleVersion, address, "not incarnation %d", p.Incarnation)
			}
		}, kind: quarry.StaleVersion, text: []string{"not incarnation 9"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := newEnvOn(t, NewMemory(), "server:0", test.server, test.client)
			var seen atomic.Pointer[Peer]
			ServeChunkServer(e.server, &fakeServer{end: func(ctx context.Context, _ *quarry.EndRequest) (*quarry.EndReply, error) {
				p, ok := PeerFrom(ctx)
				if !ok {
					t.Error("no peer in the context")
				}
				seen.Store(&p)
				return &quarry.EndReply{}, nil
			}})
			e.serve()
			_, err := e.client.ChunkServer(e.address).End(t.Context(), &quarry.EndRequest{})
			if test.kind != 0 {
				wantKind(t, err, test.kind)
				for _, text := range test.text {
					if err == nil || !strings.Contains(err.Error(), text) {
						t.Errorf("%v does not say %q", err, text)
					}
				}
				if seen.Load() != nil {
					t.Error("the request was served all the same")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			p, err := e.client.Peer(t.Context(), e.address)
			if err != nil {
				t.Fatal(err)
			}
			if p.Identity != e.server.config.Identity() || p.Proven != test.proven || p.Version != VersionMax || p.Address != e.address {
				t.Errorf("the client sees %+v", p)
			}
			if s := seen.Load(); s.Identity != e.client.config.Identity() || s.Proven != test.proven || s.Version != VersionMax || s.Address == "" {
				t.Errorf("the server sees %+v", s)
			}
		})
	}
}

// shake plays one side of a handshake against bytes of the test's choice.
func shake(t *testing.T, play func(conn Conn), fn func(p *party, conn Conn, r *frameReader) error) error {
	t.Helper()
	here, there := memoryPair()
	played := make(chan struct{})
	go func() {
		defer close(played)
		play(there)
	}()
	err := fn(&party{identity: serverIdentity(), key: testKey}, here, testReader(here))
	here.Close()
	<-played
	return err
}

func memoryPair() (a, b Conn) {
	x, y := newMemoryPipe(), newMemoryPipe()
	return &memoryConn{in: x, out: y, local: "a", remote: "b"}, &memoryConn{in: y, out: x, local: "b", remote: "a"}
}

func serverShake(p *party, conn Conn, r *frameReader) error {
	_, _, err := p.receive(conn, r)
	return err
}

func clientShake(p *party, conn Conn, r *frameReader) error {
	_, err := p.greet(conn, r, LaneControl)
	return err
}

func helloFrame(t *testing.T, m hello) []byte {
	b, err := appendFrame(nil, head{kind: kindHello}, &m, helloFields)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestHandshakeRefused(t *testing.T) {
	good := hello{VersionMin: 1, VersionMax: 1, Identity: clientIdentity(), Keyed: true}
	say := func(b []byte) func(Conn) {
		return func(c Conn) {
			c.Write(b)
			io.Copy(io.Discard, c)
			c.Close()
		}
	}
	with := func(change func(*hello)) []byte {
		m := good
		change(&m)
		return helloFrame(t, m)
	}
	tests := []struct {
		name string
		sent []byte
		text string
	}{
		{"garbage", []byte(strings.Repeat("GET / HTTP/1.1\r\n", 10)), "does not speak"},
		{"a request first", appendRaw(nil, head{version: 1, kind: kindRequest}, nil), "in the handshake"},
		{"hello with a version", appendRaw(nil, head{version: 1, kind: kindHello}, nil), "in the handshake"},
		{"large hello", appendRaw(nil, head{kind: kindHello}, make([]byte, helloBodyMax+1)), "at most"},
		{"large proof", append(appendRaw(nil, head{kind: kindHello, payload: 1000}, nil), make([]byte, 1000)...), "proof has 1000 bytes"},
		{"broken hello", appendRaw(nil, head{kind: kindHello}, []byte{0xff}), "malformed"},
		{"no nonce", appendRaw(nil, head{kind: kindHello}, nil), "nonce"},
		{"old versions", with(func(m *hello) { m.VersionMin, m.VersionMax = 0, 0 }), "speaks protocol versions 0 to 0"},
		{"future versions", with(func(m *hello) { m.VersionMin, m.VersionMax = 100, 101 }), "speaks protocol versions 100 to 101"},
		{"lane", with(func(m *hello) { m.Lane = laneMax + 1 }), "no lane"},
		{"no key", with(func(m *hello) { m.Keyed = false }), "was not given it"},
		{"no proof", append(with(func(*hello) {}), appendRaw(nil, head{kind: kindProof}, nil)...), "does not know the cluster's key"},
		{"wrong frame for the proof", append(with(func(*hello) {}), appendRaw(nil, head{kind: kindWelcome}, nil)...), "kind 3"},
	}
	for _, test := range tests {
		err := shake(t, say(test.sent), serverShake)
		if err == nil || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: %v, want %q", test.name, err, test.text)
		}
	}
	clientTests := []struct {
		name string
		sent []byte
		text string
	}{
		{"garbage", []byte(strings.Repeat("220 smtp ready\r\n", 10)), "does not speak"},
		{"closed", nil, "closed the connection in the handshake"},
		{"version not offered", with(func(m *hello) { m.VersionMin, m.VersionMax = 2, 2 }), "chose protocol version 2"},
		{"no proof", with(func(*hello) {}), "the server does not know the cluster's key"},
		{"refusal", refusal(quarry.Errorf("hello", quarry.Busy, "", "come later")), "come later"},
	}
	for _, test := range clientTests {
		play := func(c Conn) {
			c.Read(make([]byte, 1)) // who closes before the client has spoken is a broken connection
			c.Write(test.sent)
			c.Close()
		}
		err := shake(t, play, clientShake)
		if err == nil || !strings.Contains(err.Error(), test.text) {
			t.Errorf("client, %s: %v, want %q", test.name, err, test.text)
		}
	}
}

// What one side has shown in one handshake is of no use in another, or to the other side.
func TestProofsCannotBeReplayed(t *testing.T) {
	here, there := memoryPair()
	tap, done := &recorder{Conn: here}, make(chan error, 1)
	go func() {
		done <- serverShake(&party{identity: serverIdentity(), key: testKey}, there, testReader(there))
	}()
	if err := clientShake(&party{identity: clientIdentity(), key: testKey}, tap, testReader(tap)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	recorded := tap.written.Bytes()
	err := shake(t, func(c Conn) { c.Write(recorded); io.Copy(io.Discard, c); c.Close() }, serverShake)
	wantKind(t, err, quarry.Permission)
	// The words of the server, said to another client.
	here, there = memoryPair()
	tap, done = &recorder{Conn: there}, make(chan error, 1)
	go func() { done <- serverShake(&party{identity: serverIdentity(), key: testKey}, tap, testReader(tap)) }()
	if err := clientShake(&party{identity: serverIdentity(), key: testKey}, here, testReader(here)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	err = shake(t, func(c Conn) { c.Write(tap.written.Bytes()); io.Copy(io.Discard, c); c.Close() }, clientShake)
	wantKind(t, err, quarry.Permission)
	// A man in the middle who sends the server's own words back to it.
	err = shake(t, func(c Conn) {
		c.Write(helloFrame(t, hello{VersionMin: 1, VersionMax: 1, Identity: clientIdentity(), Keyed: true}))
		r := testReader(c)
		_, _, mac, err := hear(r)
		if err != nil || len(mac) == 0 {
			t.Errorf("no proof of the server: %v", err)
		}
		b, _ := appendFrame(nil, head{kind: kindProof}, &proof{MAC: mac}, proofFields)
		c.Write(b)
		io.Copy(io.Discard, c)
		c.Close()
	}, serverShake)
	wantKind(t, err, quarry.Permission)
}

// recorder keeps what is written to a connection.
type recorder struct {
	Conn
	written bytes.Buffer
}

func (r *recorder) Write(b []byte) (int, error) {
	r.written.Write(b)
	return r.Conn.Write(b)
}

// Whoever says nothing, or says it slowly, does not hold a connection for long.
func TestHandshakeTakesTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t)
		e.serve()
		conn, err := e.network.Dial(t.Context(), e.address)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		go func() {
			for _, b := range helloFrame(t, hello{VersionMin: 1, VersionMax: 1}) {
				clock.Simulated().Sleep(t.Context(), time.Second)
				if _, err := conn.Write([]byte{b}); err != nil {
					return
				}
			}
		}()
		io.Copy(io.Discard, conn)
		if took := time.Since(start); took > handshakeTime+time.Second {
			t.Errorf("the server waited %v for a hello", took)
		}
		conn.Close()

		// And a server that says nothing.
		l, err := e.network.Listen("mute:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		start = time.Now()
		_, err = e.client.Peer(t.Context(), l.Address())
		wantKind(t, err, quarry.Unavailable)
		if took := time.Since(start); took > 4*time.Second {
			t.Errorf("the client waited %v for a hello", took)
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the error does not say that it took too long: %v", err)
		}
	})
}

// Who is too busy for a handshake is waited for longer each time, if that is wanted, and not for ever.
func TestHandshakesThatTakeLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := NewMemory()
		l, err := network.Listen("busy:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		for longest, want := range map[time.Duration][]time.Duration{0: {3, 3, 3}, 10 * time.Second: {3, 6, 10, 10}} {
			c := NewClient(ClientConfig{Network: network, Clock: clock.Simulated(), Identity: clientIdentity, DialTimeMax: longest})
			for i, seconds := range want {
				start := time.Now()
				_, err = c.Peer(t.Context(), l.Address())
				wantKind(t, err, quarry.Unavailable)
				if took := time.Since(start); took != seconds*time.Second {
					t.Errorf("at most %v: attempt %d took %v", longest, i, took)
				}
				sleep(t, 2*redialTime)
			}
			c.Close()
		}
	})
}

func FuzzHandshake(f *testing.F) {
	m := hello{VersionMin: 1, VersionMax: 1, Identity: clientIdentity(), Keyed: true}
	b, _ := appendFrame(nil, head{kind: kindHello}, &m, helloFields)
	f.Add(append(b, appendRaw(nil, head{kind: kindProof}, []byte{10, 1, 1})...), true)
	f.Add(append(b, appendRaw(nil, head{kind: kindWelcome}, nil)...), false)
	f.Fuzz(func(t *testing.T, sent []byte, server bool) {
		fn := clientShake
		if server {
			fn = serverShake
		}
		err := shake(t, func(c Conn) {
			c.Write(sent)
			c.(*memoryConn).out.closeWriting()
			io.Copy(io.Discard, c)
			c.Close()
		}, fn)
		if err == nil {
			t.Fatal("a handshake without the key succeeded")
		}
	})
}
