//go:build !mutant

package main

import "github.com/quarryfs/quarry/clock"

// serverClock is the time of servers.
func serverClock() clock.Clock { return clock.System() }
