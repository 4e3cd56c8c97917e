// Package lent reads replicas of chunks on this machine from the files that their chunk servers
// lend.
//
// A read has the server vouch for the chunk, takes the bytes meanwhile, compares them with their
// checksums, and counts only if the server has vouched: bytes below a lent file's length never
// change, so it does not matter which of the two comes first, only that the server was asked
// within the read. Whatever is not as it should be is left to a read over the network, which has
// the words, the reports and the other replicas for it. docs/design/006-local-reads.md has the
// reasons.
package lent

import (
	"container/list"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client/verify"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/rpc"
	"github.com/quarryfs/quarry/rpc/passing"
)

const (
	// BytesMin is the least that is read from a lent file: for less, asking the server to
	// vouch costs as much as having it send the bytes.
	BytesMin = 256 << 10
	// filesMax bounds the files that servers have lent.
	filesMax = 256
	// idleTime is how long a lent file stays open that nobody reads. The space of a file that
	// was removed is free only when it is closed.
	idleTime = 10 * time.Second
	// unlentTime is how long nothing is read from a server's files after it could not lend one or
	// did not give its word, or from a chunk's file after it could not be read.
	unlentTime = 10 * time.Second
	// lenderMax is how long a read waits for a server that is to lend or to vouch; then it is left to
	// the network, where another replica can be asked.
	lenderMax = 50 * time.Millisecond
	// replyMax is how long a server may take to answer at all.
	replyMax = time.Second
	// unlentMax bounds the servers and chunks that are avoided.
	unlentMax = 1024
	// stepBytes is what is read before it is compared with its checksums: it is then still in
	// the caches of the processor.
	stepBytes = 2 * quarry.BlockBytes
)

// Config says what Files are read with. All fields must be set.
type Config struct {
	Clock clock.Clock
	// Log is told, at the level of debugging, of what is left to the network.
	Log *slog.Logger
	// Connections are those to the servers on this machine, over a network of rpc.Beside; Close
	// closes them.
	Connections *rpc.Client
	// Background runs work until it ends, or its context does; false if it does not any more.
	Background func(func(context.Context)) bool
	// Ahead is how many bytes a sequential reader over the network would fetch ahead.
	Ahead int64
}

// Files are what servers have lent. A nil Files reads nothing. Safe for use by many goroutines;
// the lock is not held while anything is waited for.
type Files struct {
	cfg                 Config
	lenderMax, replyMax time.Duration // the constants; where a test wants others

	mu      sync.Mutex
	closed  bool
	files   map[key]*file
	idle    list.List                 // of *file that nobody reads, the one read last in front
	unlent  map[avoided]clock.Instant // until when they are
	vouches map[string]*vouching      // by address; only those at work
}

// avoided is a server that is left alone for a while, or what it has of one chunk.
type avoided struct {
	address string
	handle  quarry.Handle // 0: all chunks
}

type key struct {
	server quarry.ServerID
	handle quarry.Handle
}

// file is the file of a replica. Files.mu guards what is below ready.
type file struct {
	key     key
	opened  *passing.Descriptor
	length  int64
	crcs    []uint32
	edition uint64        // tells the server which of the replica's files it is
	asked   clock.Instant // when the server was asked for it
	ready   chan struct{} // closed when the server has answered; opened is nil then if it has lent none

	users int
	gone  bool // not among the files any more
	since clock.Instant
	place *list.Element // in idle
}

// New returns Files of which nothing is lent yet.
func New(cfg Config) *Files {
	l := &Files{cfg: cfg, lenderMax: lenderMax, replyMax: replyMax, files: map[key]*file{}, unlent: map[avoided]clock.Instant{}, vouches: map[string]*vouching{}}
	cfg.Background(l.tidy)
	return l
}

// Close ends everything; a read under way still has its file.
func (l *Files) Close() {
	if l == nil {
		return
	}
	l.mu.Lock()
	l.closed = true
	for _, r := range l.files {
		l.forget(r)
	}
	l.mu.Unlock()
	_ = l.cfg.Connections.Close() // nothing waits for it any more
}

// tidy closes files that nobody has read for a while.
func (l *Files) tidy(ctx context.Context) {
	for l.cfg.Clock.Sleep(ctx, idleTime/2) == nil {
		l.closeIdle(l.cfg.Clock.Now())
	}
}

func (l *Files) closeIdle(now clock.Instant) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for e := l.idle.Back(); e != nil && now.Sub(e.Value.(*file).since) >= idleTime; e = l.idle.Back() {
		l.forget(e.Value.(*file))
	}
	for who, until := range l.unlent {
		if until < now {
			delete(l.unlent, who)
		}
	}
}

// Read reads bytes of a chunk from the file of its replica at a member on this machine, n of them
// from an offset in the chunk, and returns how many there are. If there are none the chunk must
// be read over the network. into returns the memory for some of them; it may wait, and is called
// twice where a replica is in another file than the one that was lent. A sequential
// reader keeps the server's word for what it reads next in row; nil for others. corrupt tells that
// the bytes of the file are not those that were written: this very replica should be read over the
// network, where its server sees it, too.
func (l *Files) Read(ctx context.Context, m *quarry.Member, ref quarry.ChunkRef, offset int64, n int, into func(n int64) []byte, row *Row) (got int, corrupt bool) {
	if l == nil || n < BytesMin {
		return 0, false
	}
	got, refused, err := l.read(ctx, m, ref, offset, n, into, row)
	if refused == quarry.StaleVersion { // whatever the bytes are, they are not the replica's
		got, _, err = l.read(ctx, m, ref, offset, n, into, row)
	}
	return got, errors.Is(err, quarry.Corrupt)
}

// read is Read, but for a second try. It returns what the server has refused, and what is wrong
// with the file.
func (l *Files) read(ctx context.Context, m *quarry.Member, ref quarry.ChunkRef, offset int64, n int, into func(n int64) []byte, row *Row) (got int, refused quarry.Kind, err error) {
	r := l.get(ctx, m, &ref, offset+int64(n))
	if r == nil {
		return 0, 0, nil
	}
	defer l.put(r)
	if r.length <= offset {
		return 0, 0, nil
	}
	if !r.cached(offset) {
		return 0, 0, nil // the server may wait for the disk
	}
	chunk := rpc.LentChunk{ChunkRef: ref, Edition: r.edition}
	word := row.covers(&chunk, offset, min(offset+int64(n), r.length), l.cfg.Clock.Now())
	if word == nil {
		if word = l.vouch(m.Address, chunk); word == nil {
			return 0, 0, nil
		}
		row.keep(word, &chunk, offset, offset+l.cfg.Ahead, l.cfg.Clock.Now())
	}
	n, err = r.read(into(min(int64(n), r.length-offset)), offset)
	if n == 0 && err == nil {
		return 0, 0, nil
	}
	refused, asked := l.hear(ctx, word, &chunk)
	if err == nil && asked == nil && refused == 0 {
		return n, 0, nil
	}
	row.end()
	l.cfg.Log.Debug("a lent file was not used", "chunk", ref.Handle, "server", m.Server, "refused", refused, "err", errors.Join(err, asked))
	if err != nil || refused != 0 && refused != quarry.Confirm {
		l.mu.Lock()
		l.forget(r)
		l.mu.Unlock()
	}
	switch {
	case err == nil, errors.Is(err, quarry.Corrupt):
	case errors.Is(err, errors.ErrUnsupported):
		l.avoid(m.Address, 0)
	default: // lent anew, it would fail again
		l.avoid(m.Address, ref.Handle)
	}
	return 0, refused, err
}

// get returns a lent file that has bytes up to end, or as many as are committed; nil if there
// is none. put gives it back.
func (l *Files) get(ctx context.Context, m *quarry.Member, ref *quarry.ChunkRef, end int64) *file {
	k, now := key{m.Server, ref.Handle}, l.cfg.Clock.Now()
	l.mu.Lock()
	if l.closed || l.unlent[avoided{m.Address, 0}] > now || l.unlent[avoided{m.Address, ref.Handle}] > now {
		l.mu.Unlock()
		return nil
	}
	r := l.files[k]
	if r != nil && r.opened != nil && r.length < end { // the chunk may have grown
		l.forget(r)
		r = nil
	}
	mine := r == nil
	if mine {
		if !l.room() {
			l.mu.Unlock()
			return nil
		}
		r = &file{key: k, asked: now, ready: make(chan struct{})}
		l.files[k] = r
	}
	if r.users++; r.place != nil {
		l.idle.Remove(r.place)
		r.place = nil
	}
	l.mu.Unlock()
	if mine && !l.cfg.Background(func(ctx context.Context) { l.borrow(ctx, m.Address, *ref, r) }) {
		l.lentNothing(r)
	}
	if !l.waitFor(ctx, r.ready, r.asked) || r.opened == nil {
		l.put(r)
		return nil
	}
	return r
}

// waitFor waits for a server that was asked at an instant, not for long; false if it has not
// answered.
func (l *Files) waitFor(ctx context.Context, done <-chan struct{}, asked clock.Instant) bool {
	select {
	case <-done:
		return true
	default:
	}
	left := l.lenderMax - l.cfg.Clock.Now().Sub(asked)
	if left <= 0 {
		return false
	}
	timer := l.cfg.Clock.NewTimer(left)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C():
	case <-ctx.Done():
	}
	return false
}

// borrow asks a server for a file.
func (l *Files) borrow(ctx context.Context, address string, ref quarry.ChunkRef, r *file) {
	ctx, cancel := l.cfg.Clock.WithTimeout(ctx, l.replyMax)
	defer cancel()
	reply, err := l.cfg.Connections.Lender(address).Lend(ctx, &ref)
	if err == nil {
		l.mu.Lock()
		r.opened, r.length, r.crcs, r.edition = reply.Descriptor, reply.Length, reply.CRCs, reply.Edition
		if r.gone && r.users == 0 { // nobody has waited for it
			r.close()
		}
		l.mu.Unlock()
		close(r.ready)
		return
	}
	l.cfg.Log.Debug("a file was not lent", "chunk", ref.Handle, "address", address, "err", err)
	if kind := quarry.KindOf(err); kind == quarry.Unavailable || kind == quarry.Unsupported {
		l.avoid(address, 0)
	}
	l.lentNothing(r)
}

// lentNothing ends the wait for a file that will not come.
func (l *Files) lentNothing(r *file) {
	l.mu.Lock()
	l.forget(r)
	l.mu.Unlock()
	close(r.ready)
}

// avoid has a server be left alone for a while, or what it has of one chunk.
func (l *Files) avoid(address string, h quarry.Handle) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.unlent) < unlentMax {
		l.unlent[avoided{address, h}] = l.cfg.Clock.Now().Add(unlentTime)
	}
}

// put gives a file back.
func (l *Files) put(r *file) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.users--; r.users > 0 {
		return
	}
	if r.gone {
		r.close()
		return
	}
	r.since = l.cfg.Clock.Now()
	r.place = l.idle.PushFront(r)
}

// room makes room for one more file, or reports that all are being read. l.mu is held.
func (l *Files) room() bool {
	if len(l.files) < filesMax {
		return true
	}
	e := l.idle.Back()
	if e == nil {
		return false
	}
	l.forget(e.Value.(*file))
	return true
}

// forget takes a file away from those that follow; it is closed when nobody reads it. l.mu is
// held.
func (l *Files) forget(r *file) {
	if r.gone {
		return
	}
	r.gone = true
	delete(l.files, r.key)
	if r.place != nil {
		l.idle.Remove(r.place)
		r.place = nil
	}
	if r.users == 0 {
		r.close()
	}
}

func (r *file) close() {
	if r.opened != nil {
		_ = r.opened.Close() // it was only read
	}
}

var blocks = sync.Pool{New: func() any { return new([quarry.BlockBytes]byte) }}

// read fills p, which ends within the file's length, with the bytes from offset, as far as they
// are in memory and match their checksums. Corrupt if some do not, errors.ErrUnsupported if
// the file cannot be read. Two halves are read side by side: where a processor is idle that makes
// up for the checksums, which cost more than half as much as the bytes.
func (r *file) read(p []byte, offset int64) (n int, err error) {
	half := len(p) / 2
	if half < BytesMin {
		return r.row(p, offset)
	}
	half -= int((offset + int64(half)) % quarry.BlockBytes)
	var behind int
	var behindErr error
	done := make(chan struct{})
	go func() {
		behind, behindErr = r.row(p[half:], offset+int64(half))
		close(done)
	}()
	n, err = r.row(p[:half], offset)
	<-done
	if n == half {
		n, err = n+behind, errors.Join(err, behindErr)
	}
	return n, err
}

// row reads as read does, one byte after the other.
func (r *file) row(p []byte, offset int64) (n int, err error) {
	for n < len(p) && err == nil {
		k, want, at := 0, 0, offset+int64(n)
		if want = r.whole(len(p)-n, at); want > 0 {
			k, err = r.compared(p[n:n+want], at)
		} else {
			want, k, err = r.part(p[n:], at)
		}
		if n += k; k < want {
			break
		}
	}
	return n, err
}

// cached reports whether the byte at an offset is in memory.
func (r *file) cached(offset int64) bool {
	var b [1]byte
	n, err := r.opened.ReadCached(b[:], offset)
	return n > 0 || err != nil // what is wrong is told by read
}

// whole returns how many of n bytes from at are whole blocks, at most stepBytes.
func (r *file) whole(n int, at int64) int {
	if at%quarry.BlockBytes != 0 {
		return 0
	}
	n = min(n, stepBytes)
	if at+int64(n) == r.length { // with the last block
		return n
	}
	return n - n%quarry.BlockBytes
}

// part reads those of the first bytes of p that are in one block, all of which is compared.
func (r *file) part(p []byte, at int64) (want, n int, err error) {
	start := at - at%quarry.BlockBytes
	stop := min(start+quarry.BlockBytes, r.length)
	want = int(min(int64(len(p)), stop-at))
	block := blocks.Get().(*[quarry.BlockBytes]byte)
	defer blocks.Put(block)
	k, err := r.compared(block[:stop-start], start)
	if err != nil || k < int(stop-start) {
		return want, 0, err
	}
	return want, copy(p[:want], block[at-start:]), nil
}

// compared reads whole blocks that begin at at, and returns how many bytes of them match.
func (r *file) compared(p []byte, at int64) (n int, err error) {
	n, err = r.opened.ReadCached(p, at)
	if err != nil {
		return 0, err
	}
	check := verify.Check{Handle: r.key.handle, Offset: at}
	check.Step(r.crcs[at/quarry.BlockBytes:], p[:n], n == len(p))
	return check.Matched(), check.Err()
}
