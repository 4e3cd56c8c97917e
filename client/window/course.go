package window

import "math"

const (
	// lookBytes is what the first fetch at a place has while nothing is known of the reader; it ends at
	// a multiple of lookBlock. Perhaps the reader wants no more than a look.
	lookBytes = 256 << 10
	lookBlock = 64 << 10
	// growth is how much more than the one before a fetch has when a reader goes on where it was not
	// expected to.
	growth = 4
	// unknown is where a run ends of whose end nothing is known.
	unknown = math.MaxInt64
)

// Course says which part of a file to fetch next. A reader goes through a file in runs: it reads some
// bytes in a row, and goes on elsewhere. A run is expected to be no longer than the longer one of the
// two before it, so that little is fetched that nobody wants; and when two runs were alike, and as far
// from each other as from the one before, the next ones are expected at the same distance, forwards or
// backwards, so that they can be fetched before they are wanted. The zero Course is that of a reader
// from the beginning. Used by one goroutine at a time.
type Course struct {
	// Most is the most bytes that are fetched at once. What is fetched ends at a multiple of it, or before.
	Most int64

	from, to int64    // the run that is being read, as far as it was
	runs     [2]int64 // how long those before it were, the last one first; 0: there was none
	strides  [2]int64 // how far the starts were from those before them, the present run's first

	start, until int64 // the run that is being fetched, and where it is expected to end
	next         int64 // where to fetch next
	step         int64 // how much, at most; 0: nothing was fetched yet
}

// Wants is told that the reader wants the byte at position.
func (c *Course) Wants(position int64) {
	if position == c.to {
		if c.Steady() && c.to-c.from == c.runs[0] { // it is longer than those before it
			c.strides[1] = 0
		}
		return
	}
	c.runs = [2]int64{c.to - c.from, c.runs[0]}
	c.strides = [2]int64{position - c.from, c.strides[0]}
	c.from, c.to = position, position
}

// Got is told that the reader has got the bytes before position.
func (c *Course) Got(position int64) { c.to = position }

// Steady reports whether the reader goes through the file in strides.
func (c *Course) Steady() bool {
	return c.runs[0] > 0 && c.runs[0] == c.runs[1] && c.strides[0] == c.strides[1] && c.strides[0] != 0
}

// Turn has position be fetched next, which Wants was told of and which is not at hand; the reader has
// room for n bytes. It reports whether position was what comes next anyway.
func (c *Course) Turn(position, n int64) bool {
	if position == c.next && c.next == c.until { // it is longer than was expected
		c.until = unknown
	}
	if c.onward(); position == c.next && (position > c.from || position == c.start) { // not by chance
		return true
	}
	c.start, c.next, c.until, c.step = position, position, unknown, max(n, lookBytes)
	switch {
	case c.Steady():
		c.until, c.step = position+c.runs[0], c.Most
	case c.runs[1] > 0:
		c.step = max(n, c.runs[0], c.runs[1])
		c.until = position + c.step
	}
	return false
}

// onward goes to where the next run is expected when all of the present one is fetched.
func (c *Course) onward() {
	if c.next == c.until && c.Steady() {
		c.start += c.strides[0]
		c.next, c.until = c.start, c.start+c.runs[0]
	}
}

// Next returns what is to be fetched next of a file that ends at end; n is 0 if nothing is.
func (c *Course) Next(end int64) (position, n int64) {
	c.onward()
	if c.next < 0 {
		return c.next, 0
	}
	if c.step == 0 { // from the beginning, as most read a file
		c.step = c.Most
	}
	n = min(c.step, c.Most-c.next%c.Most)
	if c.until == unknown && n == lookBytes {
		n -= c.next % lookBlock
	}
	return c.next, max(0, min(n, c.until-c.next, end-c.next))
}

// Fetch is told that the n bytes that Next has named are being fetched.
func (c *Course) Fetch(n int64) {
	c.next += n
	c.step = min(growth*c.step, c.Most)
}
