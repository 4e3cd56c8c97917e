// Package rpctest is the suite that every rpc.Network passes.
package rpctest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/quarryfs/quarry/rpc"
)

// Run tests a network. dialler and listener are the network as two processes see it, which
// may be the same; address is one to listen at, with port 0.
func Run(t *testing.T, address string, networks func(t *testing.T) (dialler, listener rpc.Network)) {
	tests := map[string]func(*testing.T, *pairing){
		"BothWays":        testBothWays,
		"Large":           testLarge,
		"CloseIsSeen":     testCloseIsSeen,
		"CloseDelivers":   testCloseDelivers,
		"CloseWakes":      testCloseWakes,
		"CloseWakesWrite": testCloseWakesWrite,
		"Addresses":       testAddresses,
		"ManyConnections": testManyConnections,
		"ListenerClose":   testListenerClose,
		"Refused":         testRefused,
		"DialContext":     testDialContext,
		"Twice":           testTwice,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dialler, listener := networks(t)
			l, err := listener.Listen(address)
			if err != nil {
				t.Fatal(err)
			}
			p := &pairing{t: t, dialler: dialler, listener: listener, l: l}
			t.Cleanup(p.close)
			test(t, p)
		})
	}
}

// patience is how long something may take that must happen.
const patience = 10 * time.Second

// pairing is a listener and whoever dials it.
type pairing struct {
	t                 *testing.T
	dialler, listener rpc.Network
	l                 rpc.Listener
	conns             []rpc.Conn
}

func (p *pairing) close() {
	for _, c := range p.conns {
		c.Close()
	}
	p.l.Close()
}

func (p *pairing) context() context.Context {
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	p.t.Cleanup(cancel)
	return ctx
}

// connect returns both ends of a connection.
func (p *pairing) connect() (client, server rpc.Conn) {
	p.t.Helper()
	accepted := make(chan rpc.Conn, 1)
	go func() {
		c, err := p.l.Accept()
		if err != nil {
			p.t.Error(err)
		}
		accepted <- c
	}()
	client, err := p.dialler.Dial(p.context(), p.l.Address())
	if err != nil {
		p.t.Fatal(err)
	}
	server = <-accepted
	if server == nil {
		p.t.FailNow()
	}
	p.conns = append(p.conns, client, server)
	return client, server
}

// within fails the test if fn does not return in time.
func (p *pairing) within(what string, fn func()) {
	p.t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	select {
	case <-done:
	case <-p.context().Done():
		p.t.Fatalf("%s takes for ever", what)
	}
}

func testBothWays(t *testing.T, p *pairing) {
	client, server := p.connect()
	for i, c := range []struct{ from, to rpc.Conn }{{client, server}, {server, client}, {client, server}} {
		want := fmt.Sprintf("message %d", i)
		if n, err := c.from.Write([]byte(want)); n != len(want) || err != nil {
			t.Fatalf("wrote %d, %v", n, err)
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(c.to, got); err != nil || string(got) != want {
			t.Errorf("read %q, %v; want %q", got, err, want)
		}
	}
	if n, err := client.Write(nil); n != 0 || err != nil {
		t.Errorf("writing nothing: %d, %v", n, err)
	}
}

// testLarge has both sides write more than any buffer holds, at the same time.
func testLarge(t *testing.T, p *pairing) {
	client, server := p.connect()
	const size = 8 << 20
	data := make([]byte, size)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range data {
		data[i] = byte(random.Uint32())
	}
	var wg sync.WaitGroup
	for i, c := range []rpc.Conn{client, server} {
		sent := data[i*1000:] // not the same for both
		wg.Go(func() {
			for b := sent; len(b) > 0; {
				n, err := c.Write(b[:min(len(b), 100_000)])
				if err != nil {
					t.Error(err)
					return
				}
				b = b[n:]
			}
		})
		wanted := data[(1-i)*1000:]
		wg.Go(func() {
			got := make([]byte, len(wanted))
			if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, wanted) {
				t.Errorf("the bytes differ, or %v", err)
			}
		})
	}
	p.within("a large transfer", wg.Wait)
}

func testCloseIsSeen(t *testing.T, p *pairing) {
	client, server := p.connect()
	server.Close()
	p.within("reading", func() {
		if n, err := client.Read(make([]byte, 10)); n != 0 || err == nil {
			t.Errorf("read %d, %v after the other side has closed", n, err)
		}
	})
	p.within("writing", func() {
		for { // until the network knows
			if _, err := client.Write(make([]byte, 10_000)); err != nil {
				return
			}
		}
	})
}

func testCloseDelivers(t *testing.T, p *pairing) {
	client, server := p.connect()
	want := bytes.Repeat([]byte("last words "), 1000)
	if _, err := client.Write(want); err != nil {
		t.Fatal(err)
	}
	client.Close()
	p.within("reading", func() {
		if got, err := io.ReadAll(server); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, %v; want %d", len(got), err, len(want))
		}
	})
}

func testCloseWakes(t *testing.T, p *pairing) {
	client, server := p.connect()
	for _, c := range []rpc.Conn{client, server} {
		done := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 1))
			done <- err
		}()
		c.Close()
		p.within("reading", func() {
			if err := <-done; err == nil {
				t.Error("Read returned without an error")
			}
		})
		if _, err := c.Write([]byte("x")); err == nil {
			t.Error("Write on a closed connection succeeds")
		}
		c.Close() // a second time is no harm
	}
}

func testCloseWakesWrite(t *testing.T, p *pairing) {
	client, _ := p.connect()
	full := make(chan error, 1)
	go func() {
		for {
			if _, err := client.Write(make([]byte, 1<<20)); err != nil {
				full <- err
				return
			}
		}
	}()
	client.Close()
	p.within("writing", func() { <-full })
}

func testAddresses(t *testing.T, p *pairing) {
	client, server := p.connect()
	if client.RemoteAddress() != p.l.Address() {
		t.Errorf("dialled %s, the connection says %s", p.l.Address(), client.RemoteAddress())
	}
	if client.LocalAddress() != server.RemoteAddress() || client.LocalAddress() == "" {
		t.Errorf("the client is at %q, the server sees %q", client.LocalAddress(), server.RemoteAddress())
	}
	other, _ := p.connect()
	if other.LocalAddress() == client.LocalAddress() {
		t.Errorf("two connections have the same address %q", other.LocalAddress())
	}
}

func testManyConnections(t *testing.T, p *pairing) {
	go func() {
		for {
			c, err := p.l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
			}()
		}
	}()
	var wg sync.WaitGroup
	ctx := p.context()
	for i := range 20 {
		wg.Go(func() {
			c, err := p.dialler.Dial(ctx, p.l.Address())
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			got := make([]byte, 1)
			if _, err := c.Write([]byte{byte(i)}); err != nil {
				t.Error(err)
			}
			if _, err := io.ReadFull(c, got); err != nil || got[0] != byte(i) {
				t.Errorf("connection %d: got %d, %v", i, got[0], err)
			}
		})
	}
	p.within("many connections", wg.Wait)
}

func testListenerClose(t *testing.T, p *pairing) {
	done := make(chan error, 1)
	go func() {
		_, err := p.l.Accept()
		done <- err
	}()
	p.l.Close()
	p.within("Accept", func() {
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept returns %v after Close, want net.ErrClosed", err)
		}
	})
	if _, err := p.l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept returns %v after Close, want net.ErrClosed", err)
	}
}

func testRefused(t *testing.T, p *pairing) {
	p.l.Close()
	if c, err := p.dialler.Dial(p.context(), p.l.Address()); err == nil {
		c.Close()
		t.Error("dialled where nobody listens")
	}
}

func testDialContext(t *testing.T, p *pairing) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if c, err := p.dialler.Dial(ctx, p.l.Address()); err == nil {
		c.Close()
		t.Error("dialled with a context that has ended")
	}
}

func testTwice(t *testing.T, p *pairing) {
	if l, err := p.listener.Listen(p.l.Address()); err == nil {
		l.Close()
		t.Errorf("two listen at %s", p.l.Address())
	}
	address := p.l.Address()
	p.l.Close()
	l, err := p.listener.Listen(address)
	if err != nil {
		t.Fatalf("an address cannot be used again: %v", err)
	}
	l.Close()
}
