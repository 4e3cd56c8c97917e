//go:build linux

package lent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/crc32c"
	"github.com/quarryfs/quarry/rpc"
	"golang.org/x/sys/unix"
)

// lender lends one file as every chunk, of which committed bytes count.
type lender struct {
	t    *testing.T
	name string
	mode int // in which the file is opened to be lent
	data []byte

	mu        sync.Mutex
	committed int64
	edition   uint64
	refuse    quarry.Kind
	lends     int
	vouches   int
	asked     chan struct{} // if set, a Vouch says that it has come,
	answer    chan struct{} // and waits
	lent      chan struct{} // if set, a Lend waits for it
}

func (s *lender) Lend(context.Context, *quarry.ChunkRef) (*rpc.LendReply, error) {
	s.mu.Lock()
	lent := s.lent
	s.mu.Unlock()
	if lent != nil {
		<-lent
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := os.OpenFile(s.name, s.mode, 0)
	if err != nil {
		return nil, err
	}
	s.lends++
	reply := &rpc.LendReply{Length: s.committed, Edition: s.edition, FD: f.Fd(), Release: func() { f.Close() }}
	for at := int64(0); at < s.committed; at += quarry.BlockBytes {
		reply.CRCs = append(reply.CRCs, crc32c.Checksum(s.data[at:min(at+quarry.BlockBytes, s.committed)]))
	}
	return reply, nil
}

func (s *lender) Vouch(ctx context.Context, req *rpc.VouchRequest) (*rpc.VouchReply, error) {
	s.mu.Lock()
	s.vouches++
	asked, answer, refuse, edition := s.asked, s.answer, s.refuse, s.edition
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
		if reply.Refused[i] = refuse; req.Chunks[i].Edition != edition {
			reply.Refused[i] = quarry.StaleVersion
		}
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
func lending(t *testing.T) (*lender, *Files) {
	t.Helper()
	s := &lender{t: t, name: filepath.Join(t.TempDir(), "chunk"), data: make([]byte, 3<<20+quarry.BlockBytes/2), edition: firstEdition}
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
	files := filesOf(t)
	t.Cleanup(func() {
		files.Close()
		server.Close()
		<-served
	})
	return s, files
}

// filesOf returns Files that nothing was lent to, and that have time: the machine may be slow.
// They are tidied only when a test does it.
func filesOf(t *testing.T) *Files {
	identity := func() rpc.Identity { return rpc.Identity{Role: rpc.RoleClient} }
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	var tidy sync.Once // the first work
	files := New(Config{
		Clock: clock.System(), Log: slog.New(slog.DiscardHandler), Ahead: 8 << 20,
		Connections: rpc.NewClient(rpc.ClientConfig{Network: rpc.Beside(rpc.TCP), Clock: clock.System(), Identity: identity}),
		Background: func(f func(context.Context)) bool {
			first := false
			if tidy.Do(func() { first = true }); !first {
				work.Go(func() { f(ctx) })
			}
			return true
		},
	})
	files.lenderMax, files.replyMax = time.Minute, time.Minute
	t.Cleanup(func() {
		cancel()
		files.Close()
		work.Wait()
	})
	return files
}

func lenderAt(t *testing.T) quarry.Member {
	return quarry.Member{Server: 1, Address: fmt.Sprintf("127.0.0.1:%d-%s", os.Getpid(), t.Name())}
}

// firstEdition is that of all chunks in the beginning.
const firstEdition = 7

func lentChunk(h quarry.Handle) rpc.LentChunk {
	return rpc.LentChunk{ChunkRef: quarry.ChunkRef{Handle: h}, Edition: firstEdition}
}

// get reads a range of a chunk, and requires that what comes is right.
func (s *lender) get(l *Files, h quarry.Handle, offset int64, n int, row *Row) int {
	s.t.Helper()
	m, p := lenderAt(s.t), make([]byte, n)
	got, _ := l.Read(s.t.Context(), &m, quarry.ChunkRef{Handle: h}, offset, n, func(n int64) []byte { return p[:n] }, row)
	if got < 0 || got > n || !bytes.Equal(p[:got], s.data[offset:offset+int64(got)]) {
		s.t.Errorf("%d bytes at %d: %d came, or others", n, offset, got)
	}
	return got
}

func (s *lender) gets(l *Files, offset int64, n, want int) {
	s.t.Helper()
	if got := s.get(l, 1, offset, n, nil); got != want {
		s.t.Errorf("%d bytes at %d: %d came, want %d", n, offset, got, want)
	}
}

// cached skips a test where the system cannot read files from memory alone, and reads one.
func (s *lender) cached(l *Files) {
	s.t.Helper()
	f, err := os.Open(s.name)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	if _, err := unix.Preadv2(int(f.Fd()), [][]byte{make([]byte, 1)}, 0, unix.RWF_NOWAIT); errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		s.t.Skip("files here cannot be read from memory alone")
	}
	s.gets(l, 0, BytesMin, BytesMin)
}

func TestLocalReads(t *testing.T) {
	s, l := lending(t)
	s.cached(l)
	end := len(s.data)
	s.gets(l, 0, quarry.ReadBytesMax, quarry.ReadBytesMax)
	s.gets(l, 7, BytesMin, BytesMin)
	s.gets(l, quarry.BlockBytes-1, 1<<20, 1<<20)
	s.gets(l, int64(end)-BytesMin, BytesMin, BytesMin)
	s.gets(l, int64(end)-BytesMin, BytesMin+1, BytesMin) // as far as the file goes
	s.gets(l, 0, BytesMin-1, 0)                          // too little
	r := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		n := BytesMin + r.IntN(1<<20)
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
		from := max(0, at-BytesMin/2)
		if got := s.get(l, 1, from, min(BytesMin, len(s.data)-int(from)), nil); got != 0 {
			t.Errorf("%d bytes came from around a broken one", got)
		}
		if _, err := f.WriteAt(s.data[at:at+1], at); err != nil {
			t.Fatal(err)
		}
	}
	s.gets(l, 0, 1<<20, 1<<20)
}

// A server's refusal is the end of the read; of the file, too, unless only the lease is over. That
// it is another file is the end of the second try.
func TestLocalRefused(t *testing.T) {
	s, l := lending(t)
	s.cached(l)
	for _, test := range []struct {
		kind  quarry.Kind
		lends int // that the next read needs
	}{{quarry.Confirm, 0}, {quarry.NotFound, 1}, {quarry.Corrupt, 1}, {quarry.StaleVersion, 2}} {
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
	var row Row
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

// Nor does one that does not lend; the file is used when it comes.
func TestLendIsNotWaitedFor(t *testing.T) {
	s, l := lending(t)
	s.cached(l)
	lent := make(chan struct{})
	s.set(func() { s.lent = lent })
	l.lenderMax = lenderMax
	if got := s.get(l, 2, 0, 1<<20, nil); got != 0 {
		t.Errorf("%d bytes of a file that was not lent", got)
	}
	l.lenderMax = time.Minute
	l.mu.Lock()
	file := l.files[key{1, 2}]
	l.mu.Unlock()
	if file == nil {
		t.Fatal("the read has waited until the request was given up")
	}
	l.mu.Lock()
	file.asked -= clock.Instant(l.lenderMax)
	l.mu.Unlock()
	if got := s.get(l, 2, 0, 1<<20, nil); got != 0 { // who comes later does not wait for as long again
		t.Errorf("%d bytes of a file that was not lent", got)
	}
	close(lent)
	<-file.ready
	if got := s.get(l, 2, 0, 1<<20, nil); got != 1<<20 {
		t.Errorf("%d bytes of the file that was lent late", got)
	}
	// One that nobody wants any more when it comes is closed.
	open := s.lentFiles()
	lent = make(chan struct{})
	s.set(func() { s.lent = lent })
	l.lenderMax = lenderMax
	s.get(l, 3, 0, 1<<20, nil)
	l.lenderMax = time.Minute
	l.mu.Lock()
	file = l.files[key{1, 3}]
	l.forget(file)
	l.mu.Unlock()
	close(lent)
	<-file.ready
	<-l.vouch(lenderAt(t).Address, lentChunk(1)).done // so the server has closed its own
	if now := s.lentFiles(); now > open {
		t.Errorf("%d files were open, %d are after one has come too late", open, now)
	}
}

// A file that cannot be read is not asked for again and again; others are read.
func TestUnreadableFiles(t *testing.T) {
	s, l := lending(t)
	s.cached(l)
	s.set(func() { s.mode = os.O_WRONLY })
	before, _ := s.counts()
	for range 3 {
		if got := s.get(l, 2, 0, 1<<20, nil); got != 0 {
			t.Errorf("%d bytes of a file that cannot be read", got)
		}
	}
	if after, _ := s.counts(); after != before+1 {
		t.Errorf("the file was lent %d times", after-before)
	}
	s.set(func() { s.mode = os.O_RDONLY })
	if got := s.get(l, 3, 0, 1<<20, nil); got != 1<<20 {
		t.Errorf("%d bytes of another chunk", got)
	}
}

// A server whose files cannot be read from memory alone is left alone altogether.
func TestUnsupportedFiles(t *testing.T) {
	s, l := lending(t)
	s.cached(l)
	s.set(func() { s.name = "/proc/version" })
	before, _ := s.counts()
	for h := range quarry.Handle(3) {
		if got := s.get(l, h+2, 0, 1<<20, nil); got != 0 {
			t.Errorf("%d bytes of a file that cannot be read", got)
		}
	}
	if after, _ := s.counts(); after != before+1 {
		t.Errorf("files were lent %d times", after-before)
	}
}

// inMemory reports whether any byte of the lent file is in memory.
func (s *lender) inMemory(f *os.File) bool {
	m, err := unix.Mmap(int(f.Fd()), 0, len(s.data), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		s.t.Fatal(err)
	}
	defer unix.Munmap(m)
	pages := make([]byte, len(m)/os.Getpagesize()+1)
	if _, _, err := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), uintptr(unsafe.Pointer(&pages[0]))); err != 0 {
		s.t.Fatal(err)
	}
	return slices.ContainsFunc(pages, func(p byte) bool { return p&1 != 0 })
}

// What is avoided is bounded, and forgotten in time.
func TestAvoidedAreBounded(t *testing.T) {
	l := filesOf(t)
	for h := range quarry.Handle(unlentMax + 10) {
		l.avoid("somebody", h)
	}
	if len(l.unlent) != unlentMax {
		t.Errorf("%d are avoided", len(l.unlent))
	}
	now := l.cfg.Clock.Now()
	l.unlent[avoided{"somebody", 1}] = now.Add(unlentTime + time.Hour)
	l.closeIdle(now.Add(unlentTime + time.Minute))
	if len(l.unlent) != 1 {
		t.Errorf("%d are avoided after a while", len(l.unlent))
	}
}

// What is not in memory is left to the server, which is not asked for its word either.
func TestLocalReadsDoNotWaitForTheDisk(t *testing.T) {
	s, l := lending(t)
	s.cached(l)
	f, err := os.Open(s.name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	for s.inMemory(f) { // pages that are in use for a moment stay
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			t.Fatal(err)
		}
	}
	asking := func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.vouches) > 0
	}
	for asking() { // the word on what was read before has come, but that is not noted yet
		runtime.Gosched()
	}
	_, before := s.counts()
	if got := s.get(l, 1, 2<<20, 1<<20, nil); got != 0 {
		t.Errorf("%d bytes that were not in memory", got)
	}
	still := asking() // looked at first
	if _, after := s.counts(); still || after != before {
		t.Error("the server was asked for its word on bytes that are not there")
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
	for h := range quarry.Handle(filesMax + 50) {
		s.get(l, h+1, 0, BytesMin, nil)
	}
	if n := s.lentFiles(); n > filesMax+1 || n < filesMax { // the last one may still be on its way out of the server
		t.Errorf("%d files are open", n)
	}
	l.mu.Lock()
	oldest := l.idle.Back().Value.(*file).since
	l.mu.Unlock()
	l.closeIdle(oldest.Add(idleTime - 1))
	if len(l.files) != filesMax {
		t.Errorf("%d files are left of those that were read just before", len(l.files))
	}
	// One that is being read stays open until it is given back.
	m, ref := lenderAt(t), quarry.ChunkRef{Handle: filesMax + 50}
	file := l.get(t.Context(), &m, &ref, 1)
	l.closeIdle(l.cfg.Clock.Now().Add(idleTime))
	if len(l.files) != 1 || l.files[file.key] != file {
		t.Errorf("%d files are left, and not the one that is being read", len(l.files))
	}
	l.Close()
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
			var row Row
			for i := range 60 {
				s.get(l, quarry.Handle(i%3+1), int64(i*g%50)*1000, BytesMin+i, &row)
				if i%20 == g {
					l.closeIdle(l.cfg.Clock.Now().Add(idleTime))
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
	l, m := filesOf(t), lenderAt(t)
	for range 3 {
		if n, _ := l.Read(t.Context(), &m, quarry.ChunkRef{Handle: 1}, 0, 1<<20, func(n int64) []byte { return make([]byte, n) }, nil); n != 0 {
			t.Errorf("%d bytes from nobody", n)
		}
		if l.unlent[avoided{m.Address, 0}] == 0 || len(l.files) > 0 {
			t.Errorf("%v, %d files", l.unlent, len(l.files))
		}
	}
}
