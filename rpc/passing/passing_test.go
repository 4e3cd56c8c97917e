//go:build linux

package passing

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func listen(t *testing.T) *Listener {
	t.Helper()
	l, err := Listen("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// pair returns both ends of a connection.
func pair(t *testing.T, l *Listener) (dialled, accepted *Conn) {
	t.Helper()
	dialled, err := Dial(t.Context(), l.Address())
	if err != nil {
		t.Fatal(err)
	}
	if accepted, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		dialled.Close()
		accepted.Close()
	})
	return dialled, accepted
}

// receive reads n bytes.
func receive(t *testing.T, c *Conn, n int) {
	t.Helper()
	b := make([]byte, 3)
	for n > 0 {
		k, err := c.Read(b[:min(n, len(b))])
		if err != nil {
			t.Fatal(err)
		}
		n -= k
	}
}

func open(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func TestPass(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte("bytes of a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dialled, accepted := pair(t, listen(t))
	before := open(t)
	for range 20 { // of a row of them the last one can be taken, and none stays open
		if err := accepted.Pass([]byte("hello"), 2, f.Fd()); err != nil {
			t.Fatal(err)
		}
		receive(t, dialled, 7)
	}
	d := dialled.Passed()
	if d == nil || dialled.Passed() != nil {
		t.Fatal("exactly one descriptor was to be taken")
	}
	b := make([]byte, 100)
	if n, err := d.ReadCached(b, 9); err != nil || string(b[:n]) != "a file" {
		t.Errorf("%q, %v", b[:n], err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if after := open(t); after != before {
		t.Errorf("%d files were open, now %d are", before, after)
	}
	// What nobody has taken is closed with the connection.
	if err := accepted.Pass([]byte("x"), 0, f.Fd()); err != nil {
		t.Fatal(err)
	}
	receive(t, dialled, 1)
	dialled.Close()
	if after := open(t); after != before-1 {
		t.Errorf("%d files were open with the connection, %d are without", before, after)
	}
}

// Nobody can know a listener's name before it is there.
func TestListenAtAnyName(t *testing.T) {
	a, b := listen(t), listen(t)
	if a.Address() == b.Address() || len(a.Address()) < 26 {
		t.Errorf("the names are %q and %q", a.Address(), b.Address())
	}
	dialled, accepted := pair(t, a)
	if dialled.Name() != a.Address() || accepted.Name() != a.Address() {
		t.Errorf("a connection to %q is called %q and %q", a.Address(), dialled.Name(), accepted.Name())
	}
}

// lingering returns a socket that nobody can close without waiting, until free is called.
func lingering(t *testing.T) (f *os.File, free func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.(*net.TCPConn).SetLinger(10000)
	c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	for err = nil; err == nil; { // until the peer's memory is full
		_, err = c.Write(make([]byte, 1<<20))
	}
	if f, err = c.(*net.TCPConn).File(); err != nil {
		t.Fatal(err)
	}
	peer.(*net.TCPConn).SetLinger(0)
	return f, func() { peer.Close() }
}

// What is passed to the side that listens is not taken, and nobody waits for it to be closed.
func TestPassToTheListener(t *testing.T) {
	for _, refused := range []bool{true, false} {
		l := listen(t)
		itself := l.refuses
		if err := l.refuseDescriptors(refused); err != nil && refused {
			t.Log("this system cannot refuse descriptors:", err)
			continue
		}
		if !itself {
			t.Error("a listener does not refuse descriptors, though the system can")
		}
		dialled, accepted := pair(t, l)
		if _, err := dialled.Write([]byte("before")); err != nil {
			t.Fatal(err)
		}
		f, free := lingering(t)
		err := dialled.Pass([]byte("x"), 0, f.Fd())
		if (err != nil) != refused {
			t.Fatalf("descriptors are refused: %v; passing one: %v", refused, err)
		}
		before := open(t)
		if refused {
			receive(t, accepted, len("before"))
		} else {
			accepted.Read(make([]byte, 10)) // may fail already: the system looks one message ahead
			for range 2 {                   // it stays so
				if n, err := accepted.Read(make([]byte, 10)); n != 0 || !errors.Is(err, errPassed) {
					t.Errorf("%d bytes, %v; a descriptor was passed with them", n, err)
				}
			}
			dialled.Pass([]byte("y"), 0, f.Fd())
		}
		if after := open(t); after != before {
			t.Errorf("%d files were open, now %d are", before, after)
		}
		if refused {
			free()
			f.Close()
			continue
		}
		f.Close() // the last one but for those in the queue
		dialled.Close()
		another, err := Dial(t.Context(), l.Address())
		if err != nil {
			t.Fatal(err)
		}
		g, freeToo := lingering(t)
		another.Pass([]byte("z"), 0, g.Fd())
		g.Close()
		accepted.Close()
		accepted.Close()
		l.Close() // with one that was not accepted
		if n, err := accepted.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
			t.Errorf("reading what was closed: %d, %v", n, err)
		}
		if len(l.places) != 1 {
			t.Errorf("%d places are taken while a socket is being closed", len(l.places))
		}
		free()
		freeToo()
		another.Close()
		for len(l.places) > 0 {
			runtime.Gosched()
		}
	}
}

// The connections of a listener are bounded; who comes then waits for one to end.
func TestConnectionsAreBounded(t *testing.T) {
	l := listen(t)
	dialled, accepted := pair(t, l)
	for range connsMax - 1 {
		l.places <- struct{}{}
	}
	if _, err := Dial(t.Context(), l.Address()); err != nil {
		t.Fatal(err)
	}
	came := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		came <- err
	}()
	select {
	case err := <-came:
		t.Fatalf("one connection too many: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	accepted.Close()
	dialled.Close()
	if err := <-came; err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := l.Accept()
		came <- err
	}()
	l.Close()
	if err := <-came; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a listener that was closed: %v", err)
	}
}

// A descriptor counts as on its way until the other side has taken it, whatever it sends and
// whichever end is closed.
func TestWay(t *testing.T) {
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l := listen(t)
	pass := func(c *Conn) {
		t.Helper()
		if !c.Begin() || c.Begin() {
			t.Fatal("a connection has not one descriptor on its way")
		}
		if err := c.Pass([]byte("x"), 0, f.Fd()); err != nil {
			t.Fatal(err)
		}
		c.End()
	}
	var there, here []*Conn
	for range WayMax {
		d, a := pair(t, l)
		pass(a)
		there, here = append(there, d), append(here, a)
	}
	d, a := pair(t, l)
	refused := func(what string) {
		t.Helper()
		if a.Begin() {
			t.Fatalf("%s: one descriptor too many is on its way", what)
		}
	}
	refused("nothing was read")
	there[0].Write([]byte("more"))
	receive(t, here[0], 4)
	refused("a request that follows shows nothing")
	here[0].Close()
	there[1].CloseWrite()
	here[1].Close()
	refused("the connection was closed here")
	// Taken, whatever is written afterwards; and closed there.
	for i := range 2 {
		receive(t, there[i], 1)
		if !a.Begin() {
			t.Fatal("the descriptor was taken")
		}
		a.End()
		d.SetReadDeadline(time.Time{})
		pass(a)
		receive(t, d, 1)
		if !a.Begin() {
			t.Fatal("the descriptor was taken")
		}
		a.End()
		refill, b := pair(t, l)
		pass(b)
		_ = refill
		refused("all are on their way again")
	}
	there[2].Close()
	pass(a)
	receive(t, d, 1)
	if _, err := a.Write([]byte("alive")); err != nil {
		t.Fatal(err)
	}
	there[3].Close()
	if !a.Begin() {
		t.Error("what is written after the descriptor was taken counts")
	}
	a.End()
	receive(t, d, 5)
	pass(a)
	receive(t, d, 1)
	if err := a.WriteBuffers([][]byte{[]byte("alive")}); err != nil {
		t.Fatal(err)
	}
	if !a.Begin() {
		t.Error("what is written with writev after the descriptor was taken counts")
	}
	a.End()
}

// Nothing is passed over a connection that was closed here: its place may be another one's already.
func TestNothingIsPassedAfterClose(t *testing.T) {
	l := listen(t)
	_, accepted := pair(t, l)
	accepted.Close()
	if accepted.Begin() {
		t.Error("a descriptor may be passed over a connection that was closed")
	}
	dialled, err := Dial(t.Context(), l.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer dialled.Close()
	if dialled.Begin() {
		t.Error("a descriptor may be passed to the side that listens")
	}
}

// What is not in memory is not waited for.
func TestReadCachedDoesNotWait(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dialled, accepted := pair(t, listen(t))
	if err := accepted.Pass([]byte("x"), 0, f.Fd()); err != nil {
		t.Fatal(err)
	}
	receive(t, dialled, 1)
	d := dialled.Passed()
	defer d.Close()
	b := make([]byte, 1<<20)
	if n, err := d.ReadCached(b, 0); n < len(b) || err != nil {
		t.Skipf("files here cannot be read like this: %d bytes, %v", n, err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	if n, err := d.ReadCached(b, 4<<20); n == len(b) || err != nil {
		t.Errorf("%d bytes that were not in memory, %v", n, err)
	}
}
