package transfer

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
)

// resuming is a source of some bytes in a cluster and a transfer of it that can be ended in the middle.
type resuming struct {
	*env
	data []byte
}

func newResuming(e *env) *resuming {
	r := &resuming{env: e, data: make([]byte, 3<<20+77)}
	random := rand.NewChaCha8([32]byte{7})
	_, _ = random.Read(r.data)
	return r
}

var errStop = errors.New("stop")

func (r *resuming) options(e Entry, most int, skipped *int64) PutOptions {
	moved := 0
	return PutOptions{Size: e.Size, Resume: e.ID, Skipped: func(n int64) { *skipped = n }, Moved: func(n int) error {
		if moved += n; most >= 0 && moved > most {
			return errStop
		}
		return nil
	}}
}

// TestResumeFromCluster ends a transfer in the middle, spoils what may not be durable then, and has others go on
// with it, in steps of 1 MiB.
func TestResumeFromCluster(t *testing.T) {
	bubble(t, func(e *env) {
		r := newResuming(e)
		_, err := e.q.FS.Put(e.Context(), "/f", bytes.NewReader(r.data), client.PutOptions{})
		e.must(err)
		local := filepath.Join(e.dir, "got")
		get := func(most int) (skipped int64, err error) {
			in, err := e.q.Open(e.Context(), "/f")
			e.must(err)
			defer in.Close()
			x, err := e.q.Stat(e.Context(), "/f")
			e.must(err)
			err = Local{}.resume(context.WithoutCancel(e.Context()), local, in, r.options(x, most, &skipped), 1<<20)
			return skipped, err
		}
		_, err = get(3 << 20)
		e.want(err, errStop)
		x, err := e.q.Stat(e.Context(), "/f")
		e.must(err)
		part := filepath.Join(e.dir, partName("got", x.ID))
		info, err := os.Stat(part)
		e.must(err)
		f, err := os.OpenFile(part, os.O_RDWR, 0)
		e.must(err)
		_, err = f.WriteAt(make([]byte, 1<<20), info.Size()-1<<20) // as a power failure may leave it
		e.must(err)
		e.must(unix.Flock(int(f.Fd()), unix.LOCK_EX))
		_, err = get(-1)
		e.want(err, quarry.Busy)
		e.must(f.Close())
		if _, err := os.Stat(local); err == nil {
			e.Error("it is there in part")
		}
		skipped, err := get(-1)
		e.must(err)
		got, err := os.ReadFile(local)
		e.must(err)
		if !bytes.Equal(got, r.data) || skipped < 1<<20 || skipped%(1<<20) != 0 {
			e.Errorf("%d bytes, other ones than were stored; %d were there before", len(got), skipped)
		}
		if _, err := os.Stat(part); err == nil {
			e.Error("the part is left")
		}
	})
}
