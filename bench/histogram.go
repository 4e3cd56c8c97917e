package bench

import (
	"maps"
	"math"
	"math/bits"
	"slices"
	"time"
)

// histogramBits is how exact a histogram is: a bucket is at most 1/32 as wide as what is in it.
const histogramBits = 5

// histogram counts durations in buckets whose width grows with them, so that it is small and any
// part of it can be told, within 3 %. Its zero value is empty.
type histogram struct {
	Counts map[int]uint64 // of each bucket
	Number uint64
	Most   time.Duration
}

// bucketOf returns the bucket of a duration: below 64 ns one each, from there on 32 for each
// doubling.
func bucketOf(d time.Duration) int {
	v := uint64(max(d, 0))
	shift := max(bits.Len64(v)-histogramBits-1, 0)
	return shift<<histogramBits + int(v>>shift)
}

// bucketEnd returns the longest duration that belongs into a bucket.
func bucketEnd(i int) time.Duration {
	shift := max(i>>histogramBits-1, 0)
	return time.Duration((uint64(i-shift<<histogramBits)+1)<<shift - 1)
}

func (h *histogram) add(d time.Duration) {
	if h.Counts == nil {
		h.Counts = map[int]uint64{}
	}
	h.Counts[bucketOf(d)]++
	h.Number++
	h.Most = max(h.Most, d)
}

// join adds everything that is in another one.
func (h *histogram) join(o *histogram) {
	if h.Counts == nil {
		h.Counts = map[int]uint64{}
	}
	for i, n := range o.Counts {
		h.Counts[i] += n
	}
	h.Number += o.Number
	h.Most = max(h.Most, o.Most)
}

// at returns a duration that the given part of all, 0 to 1, did not exceed; 0 if there are none.
func (h *histogram) at(part float64) time.Duration {
	want := max(uint64(math.Ceil(part*float64(h.Number))), 1)
	for _, i := range slices.Sorted(maps.Keys(h.Counts)) {
		if n := h.Counts[i]; n < want {
			want -= n
			continue
		}
		return min(bucketEnd(i), h.Most)
	}
	return 0
}
