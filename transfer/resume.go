package transfer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/quarryfs/quarry"
)

const (
	// resumeMin is the least size of a file whose transfer is worth to be gone on with.
	resumeMin = 64 << 20
	// syncEvery is how many bytes of a local part are made durable at a time: what comes behind the
	// last whole such step may be zeros after a power failure, and is fetched again.
	syncEvery = 64 << 20
)

// partName is the name of the part of a file while it comes from a source. What was stored of
// another source, or of another state of this one, has another name.
func partName(name, source string) string {
	sum := sha256.Sum256([]byte(source))
	return "." + name[:min(len(name), quarry.NameBytesMax-32)] + ".part-" + hex.EncodeToString(sum[:8])
}

// resume is Put that goes on with the part that an earlier one has left, and
// leaves one when it fails. step is syncEvery.
func (Local) resume(ctx context.Context, name string, from Source, o PutOptions, step int64) error {
	dir, base := filepath.Split(name)
	part := dir + partName(base, o.Resume)
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE, 0o666)
	if err != nil {
		return LocalError("write", part, err)
	}
	defer f.Close() // behind the renaming: until then nobody else may write to the part
	start, err := takePart(f, part, step)
	if err != nil {
		return err
	}
	if _, err := from.Seek(start, io.SeekStart); err != nil {
		return err
	}
	o.Skipped(start)
	moved, unsynced := o.Moved, int64(0)
	o.Moved = func(n int) error {
		if unsynced += int64(n); unsynced >= step {
			unsynced -= step
			if err := f.Sync(); err != nil {
				return LocalError("write", part, err)
			}
		}
		return moved(n)
	}
	if err := fill(ctx, f, from, o); err != nil {
		return err
	}
	return publish(part, name, o.Keep)
}

// takePart locks a part and cuts off what may not be durable of it; it returns how long it then is.
func takePart(f *os.File, part string, step int64) (int64, error) {
	busy := quarry.Errorf("write", quarry.Busy, "local file "+part, "another transfer of the same file is under way")
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return 0, busy
	}
	mine, err := f.Stat()
	if err != nil {
		return 0, LocalError("write", part, err)
	}
	if there, err := os.Stat(part); err != nil || !os.SameFile(mine, there) {
		return 0, busy // it was renamed before it was locked: it is another file's bytes
	}
	start := max(mine.Size()-step, 0) / step * step // a write is shorter than a step
	if err = f.Truncate(start); err == nil {
		_, err = f.Seek(start, io.SeekStart)
	}
	return start, LocalError("write", part, err)
}
