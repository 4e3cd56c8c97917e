//go:build !linux

package disk

import (
	"errors"
	"os"
)

// ReadOnly opens an open file once more, for reading only. Not on this system.
func ReadOnly(f File) (*os.File, error) { return nil, errors.ErrUnsupported }
