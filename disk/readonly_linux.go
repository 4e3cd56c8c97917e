package disk

import (
	"errors"
	"fmt"
	"os"
)

// ReadOnly opens an open file once more, for reading only: what is done with the result cannot
// change the file. Whatever has become of the file's name, it is the same file. The caller
// closes it. errors.ErrUnsupported if the file is not one of the operating system.
func ReadOnly(f File) (*os.File, error) {
	fd, ok := f.Fd()
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_RDONLY, 0)
}
