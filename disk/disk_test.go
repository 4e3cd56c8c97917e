package disk_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/disk/disktest"
)

func openOS(t *testing.T) disk.FS {
	t.Helper()
	d, err := disk.Open(filepath.Join(t.TempDir(), "some", "folder"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestOS(t *testing.T) { disktest.Run(t, openOS) }

func TestMem(t *testing.T) {
	disktest.Run(t, func(*testing.T) disk.FS { return disk.NewMem() })
}

func TestMemImage(t *testing.T) {
	disktest.Run(t, func(*testing.T) disk.FS { return disk.NewMem().Clone() })
}

func TestFaultyWithoutFaults(t *testing.T) {
	disktest.Run(t, func(t *testing.T) disk.FS {
		return disk.NewFaulty(openOS(t), func(disk.Op) disk.Fault { return disk.Fault{} })
	})
}

func TestQuotaNotReached(t *testing.T) {
	disktest.Run(t, func(t *testing.T) disk.FS { return withQuota(t, openOS(t), 1<<20) })
}

func withQuota(t *testing.T, d disk.FS, bytes int64) disk.FS {
	t.Helper()
	d, err := disk.WithQuota(d, bytes)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestNoSymbolicLinkLeadsOut(t *testing.T) {
	outside, inside := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(inside, "link")); err != nil {
		t.Fatal(err)
	}
	d, err := disk.Open(inside)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.Open("link/secret"); err == nil {
		t.Error("a file outside of the folder was opened")
	}
	if _, err := d.Create("link/new"); err == nil {
		t.Error("a file outside of the folder was made")
	}
	if err := d.Remove("link/secret"); err == nil {
		t.Error("a file outside of the folder was removed")
	}
	if _, err := d.List("link"); err == nil {
		t.Error("a directory outside of the folder was listed")
	}
}

func TestLockHoldsBetweenOpenings(t *testing.T) {
	folder := t.TempDir()
	a, errA := disk.Open(folder)
	b, errB := disk.Open(folder)
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	lock, err := a.Lock("LOCK")
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Lock("LOCK")
	if !errors.Is(err, quarry.Busy) {
		t.Fatalf("the second lock: %v", err)
	}
	var e *quarry.Error
	if !errors.As(err, &e) || e.Subject != folder {
		t.Errorf("the error %q does not name the folder %s", err, folder)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if lock, err = b.Lock("LOCK"); err != nil {
		t.Fatal(err)
	}
	lock.Close()
}

func TestOpenOfAFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := disk.Open(name); err == nil {
		t.Error("a file was opened as a folder")
	}
}

func TestWrap(t *testing.T) {
	for err, kind := range map[error]quarry.Kind{
		syscall.ENOSPC:    quarry.NoSpace,
		syscall.EDQUOT:    quarry.NoSpace,
		fs.ErrNotExist:    quarry.NotFound,
		fs.ErrExist:       quarry.Exists,
		syscall.EACCES:    quarry.Permission,
		syscall.EIO:       quarry.Internal,
		quarry.Corrupt:    quarry.Corrupt,
		errors.New("any"): quarry.Internal,
	} {
		got := disk.Wrap("write", "f", &fs.PathError{Op: "write", Path: "f", Err: err})
		if quarry.KindOf(got) != kind || !errors.Is(got, err) {
			t.Errorf("Wrap(%v) = %v of kind %v, want %v", err, got, quarry.KindOf(got), kind)
		}
	}
	if disk.Wrap("write", "f", nil) != nil {
		t.Error("Wrap(nil) is an error")
	}
}
