package client

import (
	"container/list"
	"context"
	"errors"
	"hash/crc32"
	"slices"
	"sync"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/rpc"
	"github.com/quarryfs/quarry/rpc/passing"
)

const (
	// localBytesMin is the least that is read from a lent file: for less, asking the server to
	// vouch costs as much as having it send the bytes.
	localBytesMin = 256 << 10
	// lentMax bounds the files that servers have lent.
	lentMax = 256
	// lentIdle is how long a lent file stays open that nobody reads. The space of a file that
	// was removed is free only when it is closed.
	lentIdle = 10 * time.Second
	// unlentTime is how long a server is not asked for files after it could not lend one.
	unlentTime = 10 * time.Second
	// localStep is what is read before it is compared with its checksums: it is then still in
	// the caches of the processor.
	localStep = 2 * quarry.BlockBytes
)

// local reads replicas on this machine from the files that their servers lend. A read has the
// server vouch for the chunk, takes the bytes meanwhile, compares them with their checksums,
// and counts only if the server has vouched: bytes below a lent file's length never change, so
// it does not matter which of the two comes first, only that the server was asked within the
// read. Whatever is not as it should be is left to a read over the network, which has the
// words, the reports and the other replicas for it.
//
// A nil local reads nothing. Safe for use by many goroutines; the lock is not held while
// anything is waited for.
type local struct {
	f           *FS
	connections *rpc.Client

	mu      sync.Mutex
	closed  bool
	files   map[lentKey]*lent
	idle    list.List                // of *lent that nobody reads, the one read last in front
	unlent  map[string]clock.Instant // addresses whose servers could not lend; until when they are not asked
	vouches map[string]*vouching     // by address; only those at work
}

type lentKey struct {
	server quarry.ServerID
	handle quarry.Handle
}

// lent is the file of a replica. local.mu guards what is below ready.
type lent struct {
	key    lentKey
	file   *passing.Descriptor
	length int64
	crcs   []uint32
	ready  chan struct{} // closed when the server has answered; file is nil then if it has lent none

	users int
	gone  bool // not among the files any more
	since clock.Instant
	place *list.Element // in idle
}

func newLocal(f *FS, connections *rpc.Client) *local {
	l := &local{f: f, connections: connections, files: map[lentKey]*lent{}, unlent: map[string]clock.Instant{}, vouches: map[string]*vouching{}}
	f.background(l.tidy)
	return l
}

// close ends everything; a read under way still has its file.
func (l *local) close() {
	if l == nil {
		return
	}
	l.mu.Lock()
	l.closed = true
	for _, file := range l.files {
		l.forget(file)
	}
	l.mu.Unlock()
	_ = l.connections.Close() // nothing waits for it any more
}

// tidy closes files that nobody has read for a while.
func (l *local) tidy(ctx context.Context) {
	for l.f.clock.Sleep(ctx, lentIdle/2) == nil {
		l.closeIdle(l.f.clock.Now())
	}
}

func (l *local) closeIdle(now clock.Instant) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for e := l.idle.Back(); e != nil && now.Sub(e.Value.(*lent).since) >= lentIdle; e = l.idle.Back() {
		l.forget(e.Value.(*lent))
	}
	for address, until := range l.unlent {
		if until < now {
			delete(l.unlent, address)
		}
	}
}

// readLocal reads at the file's position as much of p as one lent file has; 0: it must be read
// ahead. Bytes that are in the memory of this machine need not be fetched before they are
// wanted: they are read when there is a place for them.
func (file *File) readLocal(p []byte) int {
	p = p[:max(0, min(int64(len(p)), file.knownEnd()-file.position))]
	if file.f.local == nil || len(p) < localBytesMin || len(file.ahead.segments) > 0 {
		return 0
	}
	at, err := file.layout.at(file.ctx, file.position, nil)
	if err != nil || at.piece == nil || at.piece.Kind != quarry.PieceChunk || at.chunk.Mutable {
		return 0 // who reads ahead meets it, too
	}
	within, want := file.position-at.piece.Offset, memory{known: p, n: len(p)}
	if at.piece.Length != quarry.OpenEnded {
		want = want.first(at.piece.Length - within)
	}
	return file.f.local.read(file.ctx, at.chunk, want, at.piece.ChunkOffset+within, &file.vouched)
}

// read reads bytes of a chunk from the file of its replica on this machine, and returns how many
// there are. If there are none the chunk must be read over the network.
// A sequential reader keeps the server's word for what it reads next; row is nil for others.
func (l *local) read(ctx context.Context, chunk *quarry.Chunk, p memory, offset int64, row *vouched) int {
	if l == nil || p.n < localBytesMin {
		return 0
	}
	i := slices.IndexFunc(chunk.Members, func(m quarry.Member) bool { return l.f.here(&m) })
	if i < 0 {
		return 0
	}
	m := &chunk.Members[i]
	ref := reference(chunk, *m)
	file := l.get(ctx, m, &ref, offset+int64(p.n))
	if file == nil {
		return 0
	}
	defer l.put(file)
	if file.length <= offset {
		return 0
	}
	word := row.covers(ref.Handle, offset, l.f.clock.Now())
	if word == nil {
		if word = l.vouch(m.Address, ref); word == nil {
			return 0
		}
		row.keep(word, ref.Handle, offset, l.f)
	}
	n, err := file.read(p.first(file.length-offset).bytes(), offset)
	if n == 0 && err == nil {
		return 0 // not in memory: the server may wait for the disk
	}
	refused, asked := word.wait(ctx, l.f.clock, ref.Handle)
	if err == nil && asked == nil && refused == 0 {
		return n
	}
	row.end()
	l.f.log.Debug("a lent file was not used", "chunk", ref.Handle, "server", m.Server, "refused", refused, "err", errors.Join(err, asked))
	if err != nil || refused != 0 && refused != quarry.Confirm {
		l.mu.Lock()
		l.forget(file)
		l.mu.Unlock()
	}
	if errors.Is(err, errors.ErrUnsupported) {
		l.avoid(m.Address)
	}
	return 0
}

// get returns a lent file that has bytes up to end, or as many as are committed; nil if there
// is none. put gives it back.
func (l *local) get(ctx context.Context, m *quarry.Member, ref *quarry.ChunkRef, end int64) *lent {
	key := lentKey{m.Server, ref.Handle}
	l.mu.Lock()
	file := l.files[key]
	if file != nil && file.file != nil && file.length < end { // the chunk may have grown
		l.forget(file)
		file = nil
	}
	mine := file == nil
	if mine {
		if l.closed || l.unlent[m.Address] > l.f.clock.Now() || !l.room() {
			l.mu.Unlock()
			return nil
		}
		file = &lent{key: key, ready: make(chan struct{})}
		l.files[key] = file
	}
	if file.users++; file.place != nil {
		l.idle.Remove(file.place)
		file.place = nil
	}
	l.mu.Unlock()
	if mine {
		l.borrow(ctx, m, ref, file)
	}
	select {
	case <-file.ready:
	case <-ctx.Done():
		l.put(file)
		return nil
	}
	if file.file == nil {
		l.put(file)
		return nil
	}
	return file
}

// borrow asks a server for a file.
func (l *local) borrow(ctx context.Context, m *quarry.Member, ref *quarry.ChunkRef, file *lent) {
	ctx, cancel := l.f.clock.WithTimeout(ctx, replyMax)
	defer cancel()
	reply, err := l.connections.Lender(m.Address).Lend(ctx, ref)
	l.mu.Lock()
	if err == nil {
		file.file, file.length, file.crcs = reply.Descriptor, reply.Length, reply.CRCs
	} else {
		l.forget(file)
	}
	l.mu.Unlock()
	close(file.ready)
	if err == nil {
		return
	}
	l.f.log.Debug("a file was not lent", "chunk", ref.Handle, "server", m.Server, "err", err)
	if kind := quarry.KindOf(err); kind == quarry.Unavailable || kind == quarry.Unsupported {
		l.avoid(m.Address)
	}
}

// avoid has a server not be asked for files for a while.
func (l *local) avoid(address string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.unlent) < avoidMax {
		l.unlent[address] = l.f.clock.Now().Add(unlentTime)
	}
}

// put gives a file back.
func (l *local) put(file *lent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if file.users--; file.users > 0 {
		return
	}
	if file.gone {
		file.close()
		return
	}
	file.since = l.f.clock.Now()
	file.place = l.idle.PushFront(file)
}

// room makes room for one more file, or reports that all are being read. l.mu is held.
func (l *local) room() bool {
	if len(l.files) < lentMax {
		return true
	}
	e := l.idle.Back()
	if e == nil {
		return false
	}
	l.forget(e.Value.(*lent))
	return true
}

// forget takes a file away from those that follow; it is closed when nobody reads it. l.mu is
// held.
func (l *local) forget(file *lent) {
	if file.gone {
		return
	}
	file.gone = true
	delete(l.files, file.key)
	if file.place != nil {
		l.idle.Remove(file.place)
		file.place = nil
	}
	if file.users == 0 {
		file.close()
	}
}

func (file *lent) close() {
	if file.file != nil {
		_ = file.file.Close() // it was only read
	}
}

var lentBlocks = sync.Pool{New: func() any { return new([quarry.BlockBytes]byte) }}

// read fills p, which ends within the file's length, with the bytes from offset, as far as they
// are in memory and match their checksums. Corrupt if some do not, errors.ErrUnsupported if
// the file cannot be read. Two halves are read side by side: where a processor is idle that makes
// up for the checksums, which cost more than half as much as the bytes.
func (file *lent) read(p []byte, offset int64) (n int, err error) {
	half := len(p) / 2
	if half < localBytesMin {
		return file.row(p, offset)
	}
	half -= int((offset + int64(half)) % quarry.BlockBytes)
	var behind int
	var behindErr error
	done := make(chan struct{})
	go func() {
		behind, behindErr = file.row(p[half:], offset+int64(half))
		close(done)
	}()
	n, err = file.row(p[:half], offset)
	<-done
	if n == half {
		n, err = n+behind, errors.Join(err, behindErr)
	}
	return n, err
}

// row reads as read does, one byte after the other.
func (file *lent) row(p []byte, offset int64) (n int, err error) {
	for n < len(p) && err == nil {
		k, want, at := 0, 0, offset+int64(n)
		if want = file.whole(len(p)-n, at); want > 0 {
			k, err = file.compared(p[n:n+want], at)
		} else {
			want, k, err = file.part(p[n:], at)
		}
		if n += k; k < want {
			break
		}
	}
	return n, err
}

// whole returns how many of n bytes from at are whole blocks, at most localStep.
func (file *lent) whole(n int, at int64) int {
	if at%quarry.BlockBytes != 0 {
		return 0
	}
	n = min(n, localStep)
	if at+int64(n) == file.length { // with the last block
		return n
	}
	return n - n%quarry.BlockBytes
}

// part reads those of the first bytes of p that are in one block, all of which is compared.
func (file *lent) part(p []byte, at int64) (want, n int, err error) {
	start := at - at%quarry.BlockBytes
	stop := min(start+quarry.BlockBytes, file.length)
	want = int(min(int64(len(p)), stop-at))
	block := lentBlocks.Get().(*[quarry.BlockBytes]byte)
	defer lentBlocks.Put(block)
	k, err := file.compared(block[:stop-start], start)
	if err != nil || k < int(stop-start) {
		return want, 0, err
	}
	return want, copy(p[:want], block[at-start:]), nil
}

// compared reads whole blocks that begin at at, and returns how many bytes of them match.
func (file *lent) compared(p []byte, at int64) (n int, err error) {
	k, err := file.file.ReadCached(p, at)
	for err == nil && n < k {
		size := min(quarry.BlockBytes, len(p)-n)
		if n+size > k {
			break
		}
		if crc32.Checksum(p[n:n+size], castagnoli) != file.crcs[(at+int64(n))/quarry.BlockBytes] {
			err = quarry.Errorf("read", quarry.Corrupt, file.key.handle.String(), "the bytes at %d do not match their checksum", at+int64(n))
			break
		}
		n += size
	}
	return n, err
}
