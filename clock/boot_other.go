//go:build !linux

package clock

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// bootInstant returns the time since the machine booted; whether suspended time counts is
// the system's choice, so such a machine is for development only.
func bootInstant() Instant {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(fmt.Sprintf("clock: CLOCK_MONOTONIC: %v", err))
	}
	return Instant(t.Nano())
}
