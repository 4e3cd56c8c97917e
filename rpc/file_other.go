//go:build !unix

package rpc

import "github.com/quarryfs/quarry"

// pread is offered on Unix only; a server elsewhere replies with bytes, not with files.
func pread(uintptr, []byte, int64) (int, error) {
	return 0, quarry.Errorf("read", quarry.Unsupported, "", "files cannot be sent on this system")
}
