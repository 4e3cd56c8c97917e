package clock

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// bootInstant returns the time since the machine booted, suspended time included.
func bootInstant() Instant {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		// Linux has had this clock since 2.6.39; leases cannot be kept without it.
		panic(fmt.Sprintf("clock: CLOCK_BOOTTIME: %v", err))
	}
	return Instant(t.Nano())
}
