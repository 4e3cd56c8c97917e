//go:build mutant

package main

import (
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/quarryfs/quarry/clock"
)

// serverClock is the time of servers in test builds: at SIGUSR1 the wall clock, and nothing
// else, jumps a day ahead, at SIGUSR2 a day back.
func serverClock() clock.Clock {
	c := clock.NewSkewed(clock.System(), 0, 1)
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		for s := range signals {
			by := 24 * time.Hour
			if s == syscall.SIGUSR2 {
				by = -by
			}
			c.JumpWall(by)
			_, _ = os.Stderr.WriteString("the wall clock has jumped to " + c.Wall().Format(time.DateTime) + "\n")
		}
	}()
	return c
}
