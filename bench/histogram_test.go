package bench

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestHistogram(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var h histogram
	if h.at(0.5) != 0 {
		t.Errorf("of nothing, half is %v", h.at(0.5))
	}
	var all []time.Duration
	for range 5000 {
		d := time.Duration(r.ExpFloat64() * float64(time.Millisecond))
		h.add(d)
		all = append(all, d)
	}
	slices.Sort(all)
	for _, q := range quantiles {
		exact := all[max(int(q.part*float64(len(all)))-1, 0)]
		if got := h.at(q.part); got < exact || float64(got) > float64(exact)*(1+1.0/(1<<histogramBits)) {
			t.Errorf("%s is %v, but exactly %v", q.name, got, exact)
		}
	}
	if h.at(1) != all[len(all)-1] || h.Number != uint64(len(all)) {
		t.Errorf("the longest of %d is %v", h.Number, h.at(1))
	}
}

// TestHistogramBuckets walks over every bucket: each ends where the next one begins.
func TestHistogramBuckets(t *testing.T) {
	for d, i := time.Duration(0), 0; ; i++ {
		if bucketOf(d) != i {
			t.Fatalf("%d is in bucket %d, not %d", d, bucketOf(d), i)
		}
		end := bucketEnd(i)
		if bucketOf(end) != i || end < d {
			t.Fatalf("bucket %d begins with %d and ends with %d, which is in %d", i, d, end, bucketOf(end))
		}
		if d = end + 1; d < 0 { // it was the last that a duration can be in
			break
		}
	}
	if bucketOf(-1) != 0 {
		t.Errorf("a clock that goes backwards is in bucket %d", bucketOf(-1))
	}
}
