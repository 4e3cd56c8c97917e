package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry/rpc"
)

// pairing is two hosts, a listener on the second and a connection to it from the first.
type pairing struct {
	w      *World
	n      *Network
	a, b   *Host
	l      rpc.Listener
	client rpc.Conn
	server rpc.Conn
}

// inWorld runs a test with two hosts that are joined.
func inWorld(t *testing.T, seed uint64, f func(t *testing.T, p *pairing)) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWorld(seed)
		defer w.Close()
		p := &pairing{w: w, n: newNetwork(w, NewLog(w, nil))}
		p.a, p.b = newHost(p.n, "a", 1), newHost(p.n, "b", 2)
		p.n.SetAll(Link{Delay: time.Millisecond, Jitter: time.Millisecond})
		var err error
		if p.l, err = p.n.of(p.b, p.process(p.b)).Listen("b:1"); err != nil {
			t.Fatal(err)
		}
		if p.client, err = p.dial(context.Background()); err != nil {
			t.Fatal(err)
		}
		if p.server, err = p.l.Accept(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			p.client.Close()
			p.server.Close()
			p.l.Close()
			w.Sleep(time.Minute) // what is on its way arrives
		}()
		f(t, p)
	})
}

// process gives a host a process that does nothing.
func (p *pairing) process(h *Host) *process {
	if h.process == nil {
		h.process = &process{host: h, cancel: func() {}}
	}
	return h.process
}

func (p *pairing) dial(ctx context.Context) (rpc.Conn, error) {
	return p.n.of(p.a, p.process(p.a)).Dial(ctx, "b:1")
}

func write(t *testing.T, c rpc.Conn, s string) {
	t.Helper()
	if _, err := c.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
}

// expect reads just s.
func expect(t *testing.T, c rpc.Conn, s string) {
	t.Helper()
	b := make([]byte, len(s))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != s {
		t.Fatalf("read %q, %v; want %q", b, err, s)
	}
}

func TestPiecesTakeTimeAndKeepTheirOrder(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, p *pairing) {
		p.n.Set(p.a, p.b, func(l *Link) { l.Loss, l.Jitter = 0.5, 100*time.Millisecond })
		start := p.w.Now()
		text := ""
		for i := range 50 {
			s := fmt.Sprint(i, " ")
			text += s
			write(t, p.client, s)
			p.w.Sleep(time.Millisecond)
		}
		expect(t, p.server, text)
		if d := p.w.Now().Sub(start); d < 200*time.Millisecond {
			t.Errorf("with half of the pieces lost it took %v", d)
		}
		write(t, p.server, "back")
		expect(t, p.client, "back")
		p.client.Close()
		if _, err := p.server.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("after the other side has closed: %v", err)
		}
	})
}

func TestOneWayCut(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, p *pairing) {
		p.n.Set(p.a, p.b, block)
		write(t, p.client, "held")
		write(t, p.server, "free")
		expect(t, p.client, "free")
		ctx, cancel := p.a.clock.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if _, err := p.dial(ctx); err != context.DeadlineExceeded {
			t.Errorf("a dial through a cut: %v", err)
		}
		p.n.Heal(p.a, p.b)
		write(t, p.client, ", and more")
		expect(t, p.server, "held, and more")
	})
}

func TestBreak(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, p *pairing) {
		p.n.Break(p.a, p.b)
		for _, c := range []rpc.Conn{p.client, p.server} {
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("a broken connection: %v", err)
			}
		}
	})
}

// A process that is killed has its connections reset; one whose host has no power is silent,
// until the host is back and is asked about a connection that it does not know.
func TestEndOfAProcess(t *testing.T) {
	for _, power := range []bool{false, true} {
		inWorld(t, 1, func(t *testing.T, p *pairing) {
			if power {
				p.b.PowerOff()
			} else {
				p.b.Kill()
			}
			heard := make(chan error, 1)
			go func() {
				_, err := p.client.Read(make([]byte, 1))
				heard <- err
			}()
			p.w.Sleep(time.Minute)
			if power {
				select {
				case err := <-heard:
					t.Errorf("a host without power said %v", err)
				default:
				}
				p.b.mu.Lock()
				p.b.off = false
				p.b.mu.Unlock()
				write(t, p.client, "are you there?")
			}
			if err := <-heard; !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("power %v: the other side hears %v", power, err)
			}
			if _, err := p.dial(context.Background()); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("a host without a listener: %v", err)
			}
		})
	}
}

// A host that is held gets nothing, and its timers do not fire; then it goes on.
func TestHold(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, p *pairing) {
		p.b.Hold(10 * time.Second)
		start := p.w.Now()
		write(t, p.client, "wake up")
		timer := p.b.clock.NewTimer(time.Second)
		ctx, cancel := p.b.clock.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		expect(t, p.server, "wake up")
		<-timer.C()
		<-ctx.Done()
		if d := p.w.Now().Sub(start); d < 10*time.Second || d > 11*time.Second {
			t.Errorf("the host stood still for %v", d)
		}
		if ctx.Err() != context.DeadlineExceeded {
			t.Errorf("its context ended with %v", ctx.Err())
		}
	})
}

func TestFullWindowWaits(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, p *pairing) {
		done := make(chan int, 1)
		go func() {
			n, _ := p.client.Write(make([]byte, windowBytes+1))
			done <- n
		}()
		p.w.Sleep(time.Second)
		select {
		case <-done:
			t.Error("more was written than the window holds")
		default:
		}
		expect(t, p.server, string(make([]byte, windowBytes+1)))
		if n := <-done; n != windowBytes+1 {
			t.Errorf("%d bytes were written", n)
		}
	})
}

// What happens, and when, is decided by the seed alone.
func TestSeedDecides(t *testing.T) {
	play := func(seed uint64) (hash uint64) {
		inWorld(t, seed, func(t *testing.T, p *pairing) {
			p.n.Set(p.a, p.b, func(l *Link) { l.Loss, l.Jitter = 0.3, 20*time.Millisecond })
			for i := range 100 {
				s := fmt.Sprint(i)
				write(t, p.client, s)
				expect(t, p.server, s)
			}
			hash = p.w.hash
		})
		return hash
	}
	if a, b := play(1), play(1); a != b {
		t.Error("one seed went two ways")
	}
	if play(1) == play(2) {
		t.Error("two seeds went the same way")
	}
}
