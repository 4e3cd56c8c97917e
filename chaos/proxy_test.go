package chaos_test

import (
	"context"
	"errors"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/quarryfs/quarry/chaos"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/rpc"
)

// patience is how long something may take that must happen, briefly how long it is watched
// that something does not.
const (
	patience = 10 * time.Second
	briefly  = 150 * time.Millisecond
)

// wire is a connection from one node to another through a proxy.
type wire struct {
	t         *testing.T
	p         *chaos.Proxies
	near, far rpc.Conn
	listener  rpc.Listener
	network   rpc.Network
	address   string
}

func newWire(t *testing.T) *wire {
	t.Helper()
	w := &wire{t: t, p: chaos.NewProxies(clock.System())}
	t.Cleanup(func() { w.p.Close() })
	listen, address, err := w.p.Add("b")
	if err != nil {
		t.Fatal(err)
	}
	w.address = address
	if w.network, err = w.p.Client("a"); err != nil {
		t.Fatal(err)
	}
	if _, err = w.p.Client("other"); err != nil {
		t.Fatal(err)
	}
	if w.listener, err = rpc.TCP.Listen(listen); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.listener.Close() })
	w.near, w.far = w.connect()
	return w
}

// connect makes another connection.
func (w *wire) connect() (near, far rpc.Conn) {
	w.t.Helper()
	near, err := w.network.Dial(w.t.Context(), w.address)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { near.Close() })
	far, err = w.listener.Accept()
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { far.Close() })
	return near, far
}

func (w *wire) set(from, to string, link chaos.Link) {
	w.t.Helper()
	if err := w.p.Set(from, to, link); err != nil {
		w.t.Fatal(err)
	}
}

// say writes a byte; hear begins to wait for one at the other end.
func (w *wire) say(c rpc.Conn, b byte) {
	w.t.Helper()
	if _, err := c.Write([]byte{b}); err != nil {
		w.t.Fatal(err)
	}
}

func hear(c rpc.Conn) <-chan any {
	heard := make(chan any, 1)
	go func() {
		var b [1]byte
		if _, err := io.ReadFull(c, b[:]); err != nil {
			heard <- err
			return
		}
		heard <- b[0]
	}()
	return heard
}

func (w *wire) hears(heard <-chan any, want byte) {
	w.t.Helper()
	select {
	case got := <-heard:
		if got != want {
			w.t.Fatalf("got %v, want %v", got, want)
		}
	case <-time.After(patience):
		w.t.Fatalf("%v does not arrive", want)
	}
}

func (w *wire) silent(heard <-chan any) {
	w.t.Helper()
	select {
	case got := <-heard:
		w.t.Fatalf("%v arrives through a link that is blocked", got)
	case <-time.After(briefly):
	}
}

// TestBlockIsOneWay: a link that is blocked holds back what goes its way, and only that, for
// connections that stand and for other ones; what was held back arrives when it is healed.
func TestBlockIsOneWay(t *testing.T) {
	w := newWire(t)
	w.set("a", "b", chaos.Link{Block: true})
	w.set("other", "b", chaos.Link{Block: true})
	w.say(w.near, 1)
	w.say(w.far, 2)
	w.hears(hear(w.near), 2)
	heard := hear(w.far)
	w.silent(heard)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	second, err := w.network.Dial(ctx, w.address) // the proxy takes it; the process hears of it later
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	w.say(second, 3)
	accepted := make(chan rpc.Conn, 1)
	go func() {
		c, err := w.listener.Accept()
		if err == nil {
			accepted <- c
		}
	}()
	select {
	case <-accepted:
		t.Fatal("a connection comes about through a link that is blocked")
	case <-time.After(briefly):
	}
	if err := w.p.Heal(); err != nil {
		t.Fatal(err)
	}
	w.hears(heard, 1)
	select {
	case c := <-accepted:
		w.hears(hear(c), 3)
		c.Close()
	case <-time.After(patience):
		t.Fatal("the connection does not come about when the link is healed")
	}
}

// TestLinksOfOthers: faults between two nodes are no business of a third one.
func TestLinksOfOthers(t *testing.T) {
	w := newWire(t)
	w.set("other", "b", chaos.Link{Block: true, Delay: time.Hour})
	w.set("b", "other", chaos.Link{Block: true})
	if err := w.p.Reset("other", "b"); err != nil {
		t.Fatal(err)
	}
	w.say(w.near, 1)
	w.hears(hear(w.far), 1)
	w.say(w.far, 2)
	w.hears(hear(w.near), 2)
	if err := w.p.Set("a", "nobody", chaos.Link{}); err == nil {
		t.Error("a link to nobody can be set")
	}
}

func TestDelay(t *testing.T) {
	w := newWire(t)
	const delay = 200 * time.Millisecond
	w.set("b", "a", chaos.Link{Delay: delay, Jitter: delay / 4})
	began := time.Now()
	w.say(w.near, 1)
	w.hears(hear(w.far), 1)
	if took := time.Since(began); took >= delay {
		t.Errorf("the way that is not slow took %v", took)
	}
	began = time.Now()
	for i := range 5 {
		w.say(w.far, byte(i))
	}
	for i := range 5 {
		w.hears(hear(w.near), byte(i))
		if took := time.Since(began); took < delay {
			t.Errorf("byte %d took %v, less than %v", i, took, delay)
		}
	}
}

func TestThroughput(t *testing.T) {
	w := newWire(t)
	const bytes, rate = 512 << 10, 1 << 20
	w.set("a", "b", chaos.Link{BytesPerSecond: rate})
	go func() { _, _ = w.near.Write(make([]byte, bytes)) }()
	began := time.Now()
	if _, err := io.ReadFull(w.far, make([]byte, bytes)); err != nil {
		t.Fatal(err)
	}
	// The last piece waits behind its bytes, so it is not counted.
	if took, least := time.Since(began), time.Second*(bytes-64<<10)/rate; took < least {
		t.Errorf("%d bytes took %v, at least %v is due", bytes, took, least)
	}
}

// TestEnds: a connection that is closed ends at the other side behind its last byte; one that
// is reset, or leads to a process that is not there, breaks.
func TestEnds(t *testing.T) {
	w := newWire(t)
	w.say(w.near, 1)
	w.near.Close()
	w.hears(hear(w.far), 1)
	if got := <-hear(w.far); got != io.EOF {
		t.Errorf("behind a connection that was closed: %v", got)
	}
	near, far := w.connect()
	if err := w.p.Reset("b", "a"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []rpc.Conn{near, far} {
		if err, _ := (<-hear(c)).(error); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a connection that was reset: %v", err)
		}
	}
	w.listener.Close()
	near, err := w.network.Dial(t.Context(), w.address)
	if err == nil { // the reset is not always so quick that Dial sees it
		defer near.Close()
		err, _ = (<-hear(near)).(error)
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("with nobody there: %v", err)
	}
}
