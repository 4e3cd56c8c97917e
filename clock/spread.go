package clock

import (
	"math/rand/v2"
	"time"
)

// Spread returns a pause before something is tried again: between half of what is asked for and one
// and a half times that. It follows from who tries what, and from the number of the try: those who
// get into each other's way do not come back at the same moment for ever, and a simulation repeats
// itself. If who is 0 the pause stays as it is.
func Spread(pause time.Duration, who, what uint64, try int) time.Duration {
	if who == 0 || pause <= 0 {
		return pause
	}
	r := rand.New(rand.NewPCG(who, what<<16+uint64(try)))
	return pause/2 + time.Duration(r.Int64N(int64(pause)+1))
}
