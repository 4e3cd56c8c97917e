package transfer

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client/resume"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/crc32c"
)

const (
	ledgerFormat  = 1
	ledgerPrefix  = "put-"
	lineBytesMax  = 64 << 10 // of a line; what would be longer is not noted, and is put once more
	ledgerLineMax = 2 * quarry.PiecesMax
	// ledgerLonger is how much longer than its session a ledger is kept: masters count time by
	// themselves, and stop counting while there are none.
	ledgerLonger = 24 * time.Hour
)

// ledger is what a put has noted of the file that it stores, in a local file that only the user may
// read, for the next put of the same file to the same path to go on with. Who has it open holds a lock
// on it. Its time of change is when the session is over that has what was stored.
//
// The file is lines: the CRC32C of the rest in 8 hexadecimal digits, a space, and a JSON object. The
// first is a ledgerHead, each other one a ledgerPart. What follows the first line that is not whole was
// being written when the machine failed.
type ledger struct {
	f       *os.File
	name    string
	key     string // names cluster, path and local file
	source  *os.File
	is      string // the source's identity
	offset  int64  // at which the put reads first
	skipped func(n int64)
	anew    func(why string)
	clock   clock.Clock

	head ledgerHead
	had  map[int64]ledgerPart // that were noted before, by offset
}

var _ resume.Ledger = (*ledger)(nil)

// ledgerHead says what is put, and which session has it.
type ledgerHead struct {
	Format  int              `json:"format"`
	Key     string           `json:"key"`
	Path    string           `json:"path"`   // for people
	Local   string           `json:"local"`  // for people
	Source  string           `json:"source"` // device, inode, length and time of change
	Session quarry.SessionID `json:"session"`
}

// ledgerPart says where a part of the file is stored.
type ledgerPart struct {
	Offset int64         `json:"offset"`
	Length int64         `json:"length"`
	CRC    uint32        `json:"crc32c"`
	Pieces []ledgerPiece `json:"pieces"`
}

type ledgerPiece struct {
	Chunk  quarry.Handle `json:"chunk"`
	Length int64         `json:"length"`
}

// openLedger opens the ledger of a put of a local file to a path, and removes those that nothing can
// be done with any more. Busy: another put of the file to the path has it open.
func openLedger(dir string, cluster quarry.ClusterID, path string, source *os.File, o PutOptions, c clock.Clock) (*ledger, error) {
	local, err := filepath.Abs(source.Name())
	if err != nil {
		return nil, LocalError("open", source.Name(), err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, ledgerError(dir, err)
	}
	removeStale(dir, c.Wall())
	sum := sha256.Sum256(fmt.Appendf(nil, "%x\x00%s\x00%s", cluster, Clean(path), local))
	l := &ledger{key: hex.EncodeToString(sum[:16]), source: source, skipped: o.Skipped, anew: o.Anew, clock: c}
	l.name = filepath.Join(dir, ledgerPrefix+l.key)
	if l.is, err = identity(source); err == nil {
		l.offset, err = source.Seek(0, io.SeekCurrent)
	}
	if err != nil {
		return nil, LocalError("read", local, err)
	}
	if l.f, err = openLocked(l.name, Clean(path)); err != nil {
		return nil, err
	}
	l.read()
	l.head.Format, l.head.Key, l.head.Path, l.head.Local = ledgerFormat, l.key, Clean(path), local
	return l, nil
}

// identity says which file it is, and which state of it.
func identity(f *os.File) (string, error) {
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return "", errors.ErrUnsupported
	}
	return fmt.Sprintf("%d.%d, %d bytes of %d", s.Dev, s.Ino, info.Size(), info.ModTime().UnixNano()), nil
}

// ledgerError is the error of a ledger, or of their folder, that cannot be written.
func ledgerError(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w; --resume notes there what is stored: set XDG_STATE_HOME to another folder, or do without it", LocalError("write", name, err))
}

var errNoFile = errors.New("it is not a regular file")

// openLocked opens the ledger of a put to a path, which this process alone has open then, and makes it,
// durably, if it is missing.
func openLocked(name, path string) (*os.File, error) {
	for range 16 {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, ledgerError(name, err)
		}
		if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() { // of a pipe nobody would ever read an end
			f.Close()
			return nil, ledgerError(name, cmp.Or(err, errNoFile))
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
			f.Close()
			return nil, quarry.Errorf("put", quarry.Busy, path, "another put of this file to this path is under way, or just ends; wait for it, or do without --resume")
		}
		if !named(f, name) { // it was removed before it was locked
			f.Close()
			continue
		}
		if err := syncDir(filepath.Dir(name)); err != nil {
			f.Close()
			return nil, ledgerError(name, err)
		}
		return f, nil
	}
	return nil, quarry.Errorf("put", quarry.Busy, path, "%s comes and goes; try again", name)
}

// named reports whether an open file has a name.
func named(f *os.File, name string) bool {
	mine, err := f.Stat()
	there, err2 := os.Lstat(name)
	return err == nil && err2 == nil && os.SameFile(mine, there)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// removeStale removes ledgers whose session is over. What cannot be removed is left for another time.
func removeStale(dir string, now time.Time) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		if !strings.HasPrefix(e.Name(), ledgerPrefix) || !stale(name, now) {
			continue
		}
		f, err := os.OpenFile(name, os.O_RDWR|unix.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && named(f, name) && stale(name, now) {
			_ = os.Remove(name)
		}
		f.Close()
	}
}

func stale(name string, now time.Time) bool {
	info, err := os.Lstat(name)
	return err == nil && info.Mode().IsRegular() && now.Sub(info.ModTime()) > ledgerLonger
}

// read takes what was noted, and cuts off what is not whole. A ledger that is not known is an empty one.
func (l *ledger) read() {
	l.had = map[int64]ledgerPart{}
	r := bufio.NewReaderSize(l.f, lineBytesMax)
	whole := int64(0)
	for n := range ledgerLineMax {
		line, err := r.ReadSlice('\n')
		if err != nil {
			break
		}
		var part ledgerPart
		if n == 0 && !(readLine(line, &l.head) && l.head.Format == ledgerFormat && l.head.Key == l.key) {
			l.head = ledgerHead{}
			return // Begin writes it anew
		}
		if n > 0 {
			if !readLine(line, &part) {
				break
			}
			l.had[part.Offset] = part
		}
		whole += int64(len(line))
	}
	if l.f.Truncate(whole) != nil {
		l.head.Session = 0
	}
}

// readLine reads a line into v; false if it is not one.
func readLine(line []byte, v any) bool {
	var sum uint32
	if len(line) < 10 || line[8] != ' ' {
		return false
	}
	if _, err := fmt.Sscanf(string(line[:8]), "%08x", &sum); err != nil {
		return false
	}
	text := line[9 : len(line)-1]
	return crc32c.Checksum(text) == sum && json.Unmarshal(text, v) == nil
}

// write adds a line, durably.
func (l *ledger) write(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	line := fmt.Appendf(nil, "%08x %s\n", crc32c.Checksum(text), text)
	if len(line) > lineBytesMax {
		return nil
	}
	if _, err = l.f.Write(line); err == nil {
		err = l.f.Sync()
	}
	return ledgerError(l.name, err)
}

// Earlier implements [resume.Ledger].
func (l *ledger) Earlier() (quarry.SessionID, bool) {
	return l.head.Session, l.head.Source == l.is
}

// Begin implements [resume.Ledger].
func (l *ledger) Begin(session quarry.SessionID) error {
	switch {
	case l.head.Session == 0:
	case l.head.Source == l.is:
		l.anew("the session that had what was stored has expired")
	default:
		l.anew("the local file has changed since")
	}
	clear(l.had)
	l.head.Source, l.head.Session = l.is, session
	if err := l.f.Truncate(0); err != nil {
		return ledgerError(l.name, err)
	}
	return l.write(&l.head)
}

// Alive implements [resume.Ledger]. If it fails the ledger is removed too early, at worst.
func (l *ledger) Alive(life time.Duration) {
	raw, err := l.f.SyscallConn()
	if err != nil {
		return
	}
	over := unix.NsecToTimeval(l.clock.Wall().Add(life).UnixNano())
	_ = raw.Control(func(fd uintptr) { _ = unix.Futimes(int(fd), []unix.Timeval{over, over}) }) // not when it is closed
}

// Part implements [resume.Ledger].
func (l *ledger) Part(offset, n int64) []quarry.LinkPiece {
	part, ok := l.had[offset]
	if !ok || part.Length != n {
		return nil
	}
	var pieces []quarry.LinkPiece
	for _, p := range part.Pieces {
		if n -= p.Length; p.Length <= 0 || p.Chunk == 0 {
			return nil
		}
		pieces = append(pieces, quarry.LinkPiece{Handle: p.Chunk, Length: p.Length})
	}
	sum := crc32c.New()
	_, err := io.CopyBuffer(struct{ io.Writer }{sum}, io.NewSectionReader(l.source, l.offset+offset, part.Length), make([]byte, 256<<10))
	if err != nil || n != 0 || sum.Sum32() != part.CRC {
		return nil
	}
	l.skipped(part.Length)
	return pieces
}

// Add implements [resume.Ledger].
func (l *ledger) Add(offset, n int64, crc uint32, pieces []quarry.LinkPiece) error {
	part := ledgerPart{Offset: offset, Length: n, CRC: crc}
	for _, p := range pieces {
		part.Pieces = append(part.Pieces, ledgerPiece{p.Handle, p.Length})
	}
	return l.write(&part)
}

// Check implements [resume.Ledger].
func (l *ledger) Check() error {
	is, err := identity(l.source)
	if err == nil && is != l.is {
		return quarry.Errorf("put", quarry.Invalid, "local file "+l.source.Name(), "it was changed while it was stored; nothing is to be seen of it in the cluster: put it again when nobody writes to it")
	}
	return LocalError("read", l.source.Name(), err)
}

// End implements [resume.Ledger].
func (l *ledger) End() { _ = os.Remove(l.name) } // if it stays, it names a session that is gone

// ledger opens the ledger of a put; nil: nobody is to go on with it.
func (q Quarry) ledger(ctx context.Context, path string, from Source, o PutOptions) (*ledger, error) {
	source, ok := from.(*os.File)
	if !ok || o.Resume == "" || q.State == "" {
		return nil, nil
	}
	cluster, err := q.FS.Cluster(ctx)
	if err != nil {
		return nil, err
	}
	return openLedger(q.State, cluster, path, source, o, clock.System())
}
