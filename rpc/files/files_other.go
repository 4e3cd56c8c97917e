//go:build !unix

package files

import "github.com/quarryfs/quarry"

// ReadAt is offered on Unix only; a server elsewhere replies with bytes, not with files.
func ReadAt(uintptr, []byte, int64) (int, error) {
	return 0, quarry.Errorf("read", quarry.Unsupported, "", "files cannot be sent on this system")
}
