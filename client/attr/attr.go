// Package attr converts attributes between Go's forms and those that Quarry keeps.
package attr

import (
	"io/fs"
	"time"

	"github.com/quarryfs/quarry"
)

// The bits of a mode beside the permissions.
var modeMore = [...]struct {
	mode fs.FileMode
	bit  uint32
}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}}

// Bits returns the permissions, set-user, set-group and sticky bits of a mode as POSIX has them;
// what else it says is left out.
func Bits(mode fs.FileMode) uint32 {
	bits := uint32(mode.Perm())
	for _, m := range modeMore {
		if mode&m.mode != 0 {
			bits |= m.bit
		}
	}
	return bits
}

// Mode is the inverse of Bits.
func Mode(bits uint32) fs.FileMode {
	mode := fs.FileMode(bits) & fs.ModePerm
	for _, m := range modeMore {
		if bits&m.bit != 0 {
			mode |= m.mode
		}
	}
	return mode
}

// NS returns a time as Quarry keeps it; 0 for the zero time. The instant at which 1970 began is
// one nanosecond late.
func NS(t time.Time) (int64, error) {
	switch ns := t.UnixNano(); {
	case t.IsZero():
		return 0, nil
	case t.Year() < 1678 || t.Year() > 2261:
		return 0, quarry.Errorf("time", quarry.Invalid, "", "%v cannot be kept: the years are 1678 to 2261", t)
	case ns == 0:
		return 1, nil
	default:
		return ns, nil
	}
}

// OrProcess returns whose files a client makes: as it was told, or the process's, if the system has
// such numbers.
func OrProcess(told *uint32, process int) *uint32 {
	if told != nil || process < 0 {
		return told
	}
	id := uint32(process)
	return &id
}
