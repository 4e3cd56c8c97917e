package window

import (
	"fmt"
	"strings"
	"testing"
)

// walk has a reader go through a file of end bytes, read by read, and tells which parts are fetched
// during each of them; ahead is how many parts there may be that are not wanted yet.
func walk(most, end int64, ahead int, reads [][2]int64) string {
	c := Course{Most: most}
	var out []string
	var at [][2]int64
	held := func(p int64) bool {
		for i, part := range at {
			if part[0] <= p && p < part[0]+part[1] {
				at = at[i:]
				return true
			}
		}
		return false
	}
	fill := func(n int) {
		for len(at) < n {
			p, n := c.Next(end)
			if n == 0 {
				return
			}
			c.Fetch(n)
			at = append(at, [2]int64{p, n})
			out = append(out, fmt.Sprintf("%d+%d", p, n))
		}
	}
	for _, r := range reads {
		out = append(out, "|")
		for p := r[0]; p < r[0]+r[1]; {
			if c.Wants(p); !held(p) {
				at = nil
				c.Turn(p, r[0]+r[1]-p)
				fill(1)
			}
			p = min(at[0][0]+at[0][1], r[0]+r[1])
			if c.Got(p); p == at[0][0]+at[0][1] {
				at = at[1:]
				fill(ahead)
			}
		}
	}
	return strings.TrimPrefix(strings.Join(out, " "), "| ")
}

func TestCourse(t *testing.T) {
	const (
		k = 1 << 10
		m = 1 << 20
	)
	for name, c := range map[string]struct {
		most, end int64
		ahead     int
		reads     [][2]int64
		want      string
	}{
		"in a row": {10, 35, 2, [][2]int64{{0, 5}, {5, 5}, {10, 20}},
			"0+10 | 10+10 20+10 | 30+5"},
		"a look, then more": {m, 4 * m, 1, [][2]int64{{m + 5, 10}, {m + 15, m}},
			fmt.Sprintf("%d+%d | %d+%d %d+%d", m+5, 256*k-5, m+256*k, 768*k, 2*m, m)},
		"at random": {100, 1000, 4, [][2]int64{{500, 3}, {100, 3}, {700, 3}, {400, 3}, {901, 3}},
			"500+100 | 100+100 | 700+3 | 400+3 | 901+3"},
		"at random, then in a row": {100, 1000, 1, [][2]int64{{500, 3}, {100, 3}, {700, 3}, {400, 3}, {403, 30}},
			"500+100 | 100+100 | 700+3 | 400+3 | 403+12 415+48"},
		"strides": {100, 1000, 2, [][2]int64{{0, 5}, {200, 5}, {400, 5}, {600, 5}, {800, 5}},
			"0+100 | 200+100 | 400+5 600+5 800+5 | |"},
		"strides of what is fetched": {100, 1000, 2, [][2]int64{{0, 5}, {100, 5}, {200, 5}, {300, 5}},
			"0+100 | 100+100 | 200+5 300+5 400+5 | 500+5"},
		"backwards": {100, 1000, 2, [][2]int64{{990, 10}, {980, 10}, {970, 10}, {960, 10}},
			"990+10 | 980+20 | 970+10 960+10 950+10 | 940+10"},
		"strides of several parts": {10, 1000, 2, [][2]int64{{0, 25}, {100, 25}, {200, 25}, {300, 25}},
			"0+10 10+10 20+10 30+10 | 100+10 110+10 120+10 130+10 | 200+10 210+10 220+5 300+10 310+10 | 320+5 400+10 410+10"},
		"strides that end": {100, 1000, 2, [][2]int64{{0, 5}, {200, 5}, {400, 5}, {405, 50}, {900, 5}},
			"0+100 | 200+100 | 400+5 600+5 800+5 | 405+50 | 900+55"},
		"strides that change": {100, 1000, 2, [][2]int64{{0, 5}, {200, 5}, {400, 5}, {650, 5}, {900, 5}},
			"0+100 | 200+100 | 400+5 600+5 800+5 | 650+5 | 900+5"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := walk(c.most, c.end, c.ahead, c.reads); got != c.want {
				t.Errorf("fetched\n%s, want\n%s", got, c.want)
			}
		})
	}
}
