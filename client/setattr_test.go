package client_test

import (
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/client/clienttest"
)

// Who makes something owns it, as the client was told.
func TestOwnerOfWhatIsMade(t *testing.T) {
	uid, gid := uint32(1000), uint32(100)
	run(t, clienttest.Config{}, client.Options{UID: &uid, GID: &gid}, func(e *env) {
		ctx := e.Context()
		e.must(e.files.MkdirAll(ctx, "/d/e"))
		e.create("/d/made")
		e.put("/d/put", []byte("x"))
		for _, p := range []string{"/d", "/d/e", "/d/made", "/d/put"} {
			info, err := e.files.Stat(ctx, p)
			e.must(err)
			if info.Attr.UID != uid || info.Attr.GID != gid {
				e.Errorf("%s belongs to %d:%d", p, info.Attr.UID, info.Attr.GID)
			}
		}
	})
}

func TestSetAttr(t *testing.T) {
	run(t, clienttest.Config{}, client.Options{}, func(e *env) {
		ctx := e.Context()
		e.put("/f", []byte("x"))
		e.must(e.files.Chmod(ctx, "/f", fs.ModeSetgid|0o750))
		e.must(e.files.Chown(ctx, "/f", 7, -1))
		e.must(e.files.Chown(ctx, "/f", -1, 8))
		at := time.Date(1969, 7, 20, 20, 17, 40, 5, time.UTC)
		e.must(e.files.Chtimes(ctx, "/f", at))
		info, err := e.files.Stat(ctx, "/f")
		e.must(err)
		if info.Mode() != fs.ModeSetgid|0o750 || info.Attr.UID != 7 || info.Attr.GID != 8 || !info.ModTime().Equal(at) {
			e.Errorf("it is %v, of %d:%d, %v", info.Mode(), info.Attr.UID, info.Attr.GID, info.ModTime())
		}
		e.must(e.files.Chtimes(ctx, "/f", time.Time{}))
		info, err = e.files.Stat(ctx, "/f")
		e.must(err)
		if !info.ModTime().Equal(e.c.Clock().Wall()) {
			e.Errorf("changed now, it says %v", info.ModTime())
		}
		e.must(e.files.Chtimes(ctx, "/f", time.Unix(0, 0)))
		info, err = e.files.Stat(ctx, "/f")
		e.must(err)
		if info.ModTime().UnixNano() != 1 {
			e.Errorf("the beginning of 1970 is %v", info.ModTime())
		}
		put, err := e.files.Put(ctx, "/kept", strings.NewReader("x"), client.PutOptions{Mode: new(uint32(0o400)), Modified: at})
		e.must(err)
		if put.Mode() != 0o400 || !put.ModTime().Equal(at) {
			e.Errorf("put as %v, %v", put.Mode(), put.ModTime())
		}
	})
}

// What cannot be kept is refused, and says so.
func TestSetAttrRefused(t *testing.T) {
	run(t, clienttest.Config{}, client.Options{}, func(e *env) {
		ctx := e.Context()
		e.put("/f", []byte("x"))
		before, err := e.files.Stat(ctx, "/f")
		e.must(err)
		for _, year := range []int{-1, 1677, 2262, 1 << 20} {
			e.want(e.files.Chtimes(ctx, "/f", time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)), quarry.Invalid)
			_, err := e.files.Put(ctx, "/g", strings.NewReader("x"), client.PutOptions{Modified: time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)})
			e.want(err, quarry.Invalid)
		}
		e.want(e.files.Chown(ctx, "/f", -2, 0), quarry.Invalid)
		e.want(e.files.Chown(ctx, "/f", 0, 1<<32), quarry.Invalid)
		e.want(e.files.Chmod(ctx, "/nothing", 0o600), fs.ErrNotExist)
		e.want(e.files.Chmod(ctx, "/f/x", 0o600), quarry.NotDir)
		after, err := e.files.Stat(ctx, "/f")
		e.must(err)
		if after != before {
			e.Errorf("it was %+v, and is %+v", before, after)
		}
	})
}

// An answer that is lost is asked for again, and slots move meanwhile.
func TestSetAttrOnce(t *testing.T) {
	run(t, clienttest.Config{}, client.Options{}, func(e *env) {
		e.put("/f", []byte("x"))
		e.c.LoseAnswers("set attributes", 2)
		e.must(e.files.Chmod(e.Context(), "/f", 0o600))
		info, err := e.files.Stat(e.Context(), "/f")
		e.must(err)
		if info.Mode() != 0o600 || e.c.Count("set attributes") != 3 {
			e.Errorf("mode %v after %d requests", info.Mode(), e.c.Count("set attributes"))
		}
	})
}
