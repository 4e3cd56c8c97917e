//go:build !unix

package rpc

import "github.com/quarryfs/quarry"

// tryOnce is never called: without TryWrite, a goroutine does all the writing.
func (c *tcpConn) tryOnce(uintptr) bool { return true }

// pread is offered on Unix only; a server elsewhere replies with bytes, not with files.
func pread(uintptr, []byte, int64) (int, error) {
	return 0, quarry.Errorf("pread", quarry.Unsupported, "", "files cannot be sent on this system")
}
