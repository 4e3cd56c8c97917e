//go:build linux

package client

import (
	"bytes"
	"context"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/rpc"
)

// lender lends one file as every chunk, of which committed bytes count.
type lender struct {
	t    *testing.T
	name string
	data []byte

	mu        sync.Mutex
	committed int64
	refuse    quarry.Kind
	lends     int
	vouches   int
	asked     chan struct{} // if set, a Vouch says that it has come,
	answer    chan struct{} // and waits
}

func (s *lender) Lend(context.Context, *quarry.ChunkRef) (*rpc.LendReply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := os.Open(s.name)
	if err != nil {
		return nil, err
	}
	s.lends++
	reply := &rpc.LendReply{Length: s.committed, FD: f.Fd(), Release: func() { f.Close() }}
	for at := int64(0); at < s.committed; at += quarry.BlockBytes {
		reply.CRCs = append(reply.CRCs, crc32.Checksum(s.data[at:min(at+quarry.BlockBytes, s.committed)], castagnoli))
	}
	return reply, nil
}

func (s *lender) Vouch(ctx context.Context, req *rpc.VouchRequest) (*rpc.VouchReply, error) {
	s.mu.Lock()
	s.vouches++
	asked, answer, refuse := s.asked, s.answer, s.refuse
	s.mu.Unlock()
	if asked != nil {
		asked <- struct{}{}
		select {
		case <-answer:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	reply := &rpc.VouchReply{Refused: make([]quarry.Kind, len(req.Chunks))}
	for i := range reply.Refused {
		reply.Refused[i] = refuse
	}
	return reply, nil
}

func (s *lender) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// counts returns how often the server was asked for a file and for its word.
func (s *lender) counts() (lends, vouches int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lends, s.vouches
}

// lending starts a server that lends a file, and a client of it.
func lending(t *testing.T) (*lender, *local) {
	t.Helper()
	s := &lender{t: t, name: filepath.Join(t.TempDir(), "chunk"), data: make([]byte, 3<<20+quarry.BlockBytes/2)}
	rand.NewChaCha8([32]byte{1}).Read(s.data)
	s.committed = int64(len(s.data))
	if err := os.WriteFile(s.name, s.data, 0o600); err != nil {
		t.Fatal(err)
	}
	network := rpc.Beside(rpc.TCP)
	l, err := network.Listen(lenderAt(t).Address)
	if err != nil {
		t.Fatal(err)
	}
	identity := func() rpc.Identity { return rpc.Identity{Role: rpc.RoleClient} }
	server := rpc.NewServer(rpc.ServerConfig{Clock: clock.System(), Identity: identity})
	rpc.ServeLender(server, s)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	f := New(nil, nil, Options{Hosts: []string{"127.0.0.1"}})
	f.local = newLocal(f, rpc.NewClient(rpc.ClientConfig{Network: network, Clock: clock.System(), Identity: identity}))
	t.Cleanup(func() {
		f.Close()
		f.local.close()
		server.Close()
		<-served
	})
	return s, f.local
}

func lenderAt(t *testing.T) quarry.Member {
	return quarry.Member{Server: 1, Address: fmt.Sprintf("127.0.0.1:%d-%s", os.Getpid(), t.Name())}
}

// get reads a range of a chunk, and requires that what comes is right.
func (s *lender) get(l *local, h quarry.Handle, offset int64, n int, row *vouched) int {
	s.t.Helper()
	chunk := &quarry.Chunk{Handle: h, Members: []quarry.Member{{Server: 9, Address: "10.0.0.1:1"}, lenderAt(s.t)}}
	p := make([]byte, n)
	got := l.read(s.t.Context(), chunk, memory{known: p, n: n}, offset, row)
	if got < 0 || got > n || !bytes.Equal(p[:got], s.data[offset:offset+int64(got)]) {
		s.t.Errorf("%d bytes at %d: %d came, or others", n, offset, got)
	}
	return got
}

func (s *lender) gets(l *local, offset int64, n, want int) {
	s.t.Helper()
	if got := s.get(l, 1, offset, n, nil); got != want {
		s.t.Errorf("%d bytes at %d: %d came, want %d", n, offset, got, want)
	}
}

// cached skips a test where files cannot be read from memory alone.
func (s *lender) cached(l *local) {
	if s.get(l, 1, 0, localBytesMin, nil) == 0 {
		s.t.Skip("files here cannot be read from memory alone")
	}
}

func TestLocalReads(t *testing.T) {
	s, l := lending(t)
	s.cached(l)
	end := len(s.data)
	s.gets(l, 0, quarry.ReadBytesMax, quarry.ReadBytesMax)
	s.gets(l, 7, localBytesMin, localBytesMin)
	s.gets(l, quarry.BlockBytes-1, 1<<20, 1<<20)
	s.gets(l, int64(end)-localBytesMin, localBytesMin, localBytesMin)
	s.gets(l, int64(end)-localBytesMin, localBytesMin+1, localBytesMin) // as far as the file goes
	s.gets(l, 0, localBytesMin-1, 0)                                    // too little
	r := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		n := localBytesMin + r.IntN(1<<20)
		s.gets(l, int64(r.IntN(end-n)), n, n)
	}
}

// What does not match its checksum is not given out, nor is what comes after it.
func TestLocalRot(t *testing.T) {
	s, l := lending(t)
	s.cached(l)
	f, err := os.OpenFile(s.name, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, at := range []int64{0, 700000, int64(len(s.data)) - 1} {
		if _, err := f.WriteAt([]byte{s.data[at] + 1}, at); err != nil {
			t.Fatal(err)
		}
		from := max(0, at-localBytesMin/2)
		if got := s.get(l, 1, from, min(localBytesMin, len(s.data)-int(from)), nil); got != 0 {
			t.Errorf("%d bytes came from around a broken one", got)
		}
		if _, err := f.WriteAt(s.data[at:at+1], at); err != nil {
			t.Fatal(err)
		}
	}
	s.gets(l, 0, 1<<20, 1<<20)
}

// A server's refusal is the end of the read; of the file, too, unless only the lease is over.
func TestLocalRefused(t *testing.T) {
	s, l := lending(t)
	s.cached(l)
	for _, test := range []struct {
		kind  quarry.Kind
		lends int // that the next read needs
	}{{quarry.Confirm, 0}, {quarry.NotFound, 1}, {quarry.Corrupt, 1}, {quarry.StaleVersion, 1}} {
		s.set(func() { s.refuse = test.kind })
		before, _ := s.counts()
		s.gets(l, 0, 1<<20, 0)
		s.set(func() { s.refuse = 0 })
		s.gets(l, 0, 1<<20, 1<<20)
		if after, _ := s.counts(); after-before != test.lends {
			t.Errorf("after %v the file was lent %d times, want %d", test.kind, after-before, test.lends)
		}
	}
	// A reader in a row notices it as well.
	var row vouched
	s.get(l, 1, 0, 1<<20, &row)
	s.set(func() { s.refuse = quarry.NotFound })
	row.asked -= clock.Instant(vouchedTime)
	if got := s.get(l, 1, 1<<20, 1<<20, &row); got != 0 || row.word != nil {
		t.Errorf("%d bytes came after the word was refused, %+v", got, row)
	}
}

// A file that has grown is lent anew, as far as it is committed.
func TestLocalGrowth(t *testing.T) {
	s, l := lending(t)
	s.cached(l)
	s.set(func() { s.committed = 1<<20 + 5 })
	l.mu.Lock()
	for _, file := range l.files {
		l.forget(file)
	}
	l.mu.Unlock()
	s.gets(l, 1<<19, 1<<20, 1<<19+5)
	s.gets(l, 1<<20+5, 1<<20, 0)
	s.gets(l, 2<<20, 1<<20, 0) // another server may know more
	s.set(func() { s.committed = 2 << 20 })
	s.gets(l, 1<<20, 1<<20, 1<<20)
}

// A word counts for reads that began before it was asked for, and for no others: who comes
// while a request is under way waits for the next one, which all share who came meanwhile.
func TestVouchesAreShared(t *testing.T) {
	s, l := lending(t)
	s.cached(l)
	asked, answer := make(chan struct{}), make(chan struct{})
	ref := quarry.ChunkRef{Handle: 1}
	address := lenderAt(t).Address
	s.set(func() { s.asked, s.answer = asked, answer })
	first := l.vouch(address, ref)
	<-asked
	second := l.vouch(address, ref)
	if second == first {
		t.Fatal("a read is given a word that was asked for before it began")
	}
	for h := range quarry.Handle(rpc.VouchMax) {
		if got := l.vouch(address, quarry.ChunkRef{Handle: h + 1}); got != second {
			t.Fatalf("chunk %d is in a request of its own", h+1)
		}
	}
	if l.vouch(address, quarry.ChunkRef{Handle: 1000}) != nil {
		t.Error("a request has more chunks than it may")
	}
	answer <- struct{}{}
	<-asked
	select {
	case <-first.done:
	default:
		t.Error("the second request was sent before the first was answered")
	}
	s.set(func() { s.asked = nil })
	answer <- struct{}{}
	<-second.done
	if refused, err := second.wait(t.Context(), l.f.clock, rpc.VouchMax); refused != 0 || err != nil {
		t.Error(refused, err)
	}
	if len(second.refused) != rpc.VouchMax {
		t.Errorf("%d chunks were vouched for", len(second.refused))
	}
}

// A server that does not answer keeps nobody.
func TestVouchIsNotWaitedFor(t *testing.T) {
	s, l := lending(t)
	s.cached(l)
	asked := make(chan struct{}, 10)
	s.set(func() { s.asked, s.answer = asked, make(chan struct{}) })
	s.gets(l, 0, 1<<20, 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	chunk := &quarry.Chunk{Handle: 1, Members: []quarry.Member{lenderAt(t)}}
	if n := l.read(ctx, chunk, memory{known: make([]byte, 1<<20), n: 1 << 20}, 0, nil); n != 0 {
		t.Errorf("%d bytes without the server's word", n)
	}
}

// A sequential reader uses a word for what it would have fetched ahead, and for a while.
func TestVouchOfARow(t *testing.T) {
	_, l := lending(t)
	word, now := &vouch{}, l.f.clock.Now()
	var row vouched
	if row.covers(1, 0, now) != nil || (*vouched)(nil).covers(1, 0, now) != nil {
		t.Error("a word that nobody gave")
	}
	row.keep(word, 1, 100, l.f)
	ahead := int64(l.f.opts.ReadAhead)
	for _, test := range []struct {
		h      quarry.Handle
		offset int64
		later  clock.Instant
		want   bool
	}{{1, 100, 0, true}, {1, 99 + ahead, 0, true}, {1, 100 + ahead, 0, false}, {1, 99, 0, false}, {2, 100, 0, false}, {1, 100, clock.Instant(vouchedTime), false}} {
		if got := row.covers(test.h, test.offset, row.asked+test.later) == word; got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
}

// lentFiles returns how many of this process's descriptors are of the lent file.
func (s *lender) lentFiles() (n int) {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, d := range names {
		if to, err := os.Readlink("/proc/self/fd/" + d.Name()); err == nil && to == s.name {
			n++
		}
	}
	return n
}

// The files that are open are bounded, and closed when nobody reads them, or all ends.
func TestLocalFilesAreBounded(t *testing.T) {
	s, l := lending(t)
	s.cached(l)
	for h := range quarry.Handle(lentMax + 50) {
		s.get(l, h+1, 0, localBytesMin, nil)
	}
	if n := s.lentFiles(); n > lentMax+1 || n < lentMax { // the last one may still be on its way out of the server
		t.Errorf("%d files are open", n)
	}
	l.closeIdle(l.f.clock.Now())
	if len(l.files) != lentMax {
		t.Errorf("%d files are left of those that were read just before", len(l.files))
	}
	// One that is being read stays open until it is given back.
	m, ref := lenderAt(t), quarry.ChunkRef{Handle: lentMax + 50}
	file := l.get(t.Context(), &m, &ref, 1)
	l.closeIdle(l.f.clock.Now().Add(lentIdle))
	if len(l.files) != 1 || l.files[file.key] != file {
		t.Errorf("%d files are left, and not the one that is being read", len(l.files))
	}
	l.close()
	if n, err := file.read(make([]byte, 100), 0); n != 100 || err != nil {
		t.Errorf("a file that is being read was closed: %d bytes, %v", n, err)
	}
	l.put(file)
	if n := s.lentFiles(); n > 1 {
		t.Errorf("%d files are open at the end", n)
	}
	if s.get(l, 1, 0, 1<<20, nil) != 0 {
		t.Error("a client that is closed reads")
	}
}

// Many readers of several chunks at once, while files are forgotten under them.
func TestLocalReadersAtOnce(t *testing.T) {
	s, l := lending(t)
	s.cached(l)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			var row vouched
			for i := range 60 {
				s.get(l, quarry.Handle(i%3+1), int64(i*g%50)*1000, localBytesMin+i, &row)
				if i%20 == g {
					l.closeIdle(l.f.clock.Now().Add(lentIdle))
				}
			}
		})
	}
	wg.Wait()
	if lends, vouches := s.counts(); lends == 0 || vouches == 0 {
		t.Errorf("%d files were lent, %d words given", lends, vouches)
	}
}

// Where nobody lends, nobody is asked again and again.
func TestNobodyLends(t *testing.T) {
	f := New(nil, nil, Options{Hosts: []string{"127.0.0.1"}})
	defer f.Close()
	f.local = newLocal(f, rpc.NewClient(rpc.ClientConfig{Network: rpc.Beside(rpc.TCP), Clock: clock.System(), Identity: func() rpc.Identity { return rpc.Identity{Role: rpc.RoleClient} }}))
	defer f.local.close()
	chunk := &quarry.Chunk{Handle: 1, Members: []quarry.Member{lenderAt(t)}}
	for range 3 {
		if n := f.local.read(t.Context(), chunk, memory{known: make([]byte, 1<<20), n: 1 << 20}, 0, nil); n != 0 {
			t.Errorf("%d bytes from nobody", n)
		}
		if f.local.unlent[chunk.Members[0].Address] == 0 || len(f.local.files) > 0 {
			t.Errorf("%+v", f.local)
		}
	}
}
