package disk

import (
	"errors"
	"io/fs"
	"syscall"

	"github.com/quarryfs/quarry"
)

// IsNoSpace reports whether err says that the disk or the quota is full.
func IsNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// Wrap makes a quarry.Error of an error of this package, with the kind that it stands for:
// NoSpace, NotFound, Exists, Permission, or Internal for a disk that fails. An error that
// has a kind keeps it, nil stays nil.
func Wrap(op, subject string, err error) error {
	kind := quarry.KindOf(err)
	switch {
	case err == nil:
		return nil
	case kind != quarry.Internal:
	case IsNoSpace(err):
		kind = quarry.NoSpace
	case errors.Is(err, fs.ErrNotExist):
		kind = quarry.NotFound
	case errors.Is(err, fs.ErrExist):
		kind = quarry.Exists
	case errors.Is(err, fs.ErrPermission):
		kind = quarry.Permission
	}
	return &quarry.Error{Op: op, Kind: kind, Subject: subject, Err: err}
}
