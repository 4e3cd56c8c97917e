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
// NoSpace, NotFound, Exists, Permission, or Internal for a disk that fails. A quarry.Error
// keeps its kind, nil stays nil.
func Wrap(op, subject string, err error) error {
	var known *quarry.Error
	if err == nil || errors.As(err, &known) {
		return quarry.Wrap(op, subject, err)
	}
	kind := quarry.Internal
	switch {
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
