package chaos

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/history"
)

// The places of the time line, in units of its view box.
const (
	chartWidth  = 1100.0
	chartLeft   = 92.0 // of the time axis
	chartRight  = 1088.0
	latencyTop  = 14.0
	latencyEnd  = 254.0
	rateTop     = 276.0
	rateEnd     = 336.0
	lanesTop    = 362.0
	laneHeight  = 24.0
	barHeight   = 16.0
	charWidth   = 6.1 // of the labels, about
	latencyLow  = 0.3 // ms at the bottom of the scale
	latencyHigh = 20_000.0
)

// chart is the time line of a run.
type chart struct {
	Width, Height float64
	Left, Right   float64
	LatencyTop    float64
	LatencyEnd    float64
	RateTop       float64
	RateEnd       float64
	LanesTop      float64
	LanesEnd      float64
	Times         []label // of the time axis
	Scale         []label // of the latencies
	RateMax       string
	Bands         []string // from the median to the 99th percentile, polygons
	Medians       []string // lines
	Rates         []box
	Gaps          []box
	Dots          []mote
	Lanes         []label
	Bars          []box
}

type label struct {
	X, Y float64
	Text string
}

type box struct {
	X, Y, W, H   float64
	Class, Title string
	Text         string // that fits into it
}

type mote struct {
	X, Y         float64
	Class, Title string
}

// x returns where a time stands.
func (r *Report) x(ms int64) float64 {
	return chartLeft + (chartRight-chartLeft)*float64(min(max(ms, 0), r.DurationMS))/float64(r.DurationMS)
}

// y returns where a latency stands, on a logarithmic scale.
func y(ms float64) float64 {
	v := math.Log(min(max(ms, latencyLow), latencyHigh)/latencyLow) / math.Log(latencyHigh/latencyLow)
	return latencyEnd - v*(latencyEnd-latencyTop)
}

// chart draws the time line.
func (r *Report) chart() *chart {
	c := &chart{
		Width: chartWidth, Left: chartLeft, Right: chartRight, LatencyTop: latencyTop, LatencyEnd: latencyEnd,
		RateTop: rateTop, RateEnd: rateEnd, LanesTop: lanesTop, LanesEnd: lanesTop + laneHeight*float64(len(r.nodes)),
	}
	c.Height = c.LanesEnd + 30
	for _, t := range ticks(r.DurationMS) {
		c.Times = append(c.Times, label{r.x(t), c.LanesEnd + 18, fmt.Sprintf("%g s", seconds(t))})
	}
	for _, l := range []struct {
		ms   float64
		text string
	}{{1, "1 ms"}, {10, "10 ms"}, {100, "100 ms"}, {1000, "1 s"}, {10_000, "10 s"}} {
		c.Scale = append(c.Scale, label{chartLeft - 8, y(l.ms), l.text})
	}
	r.drawLatency(c)
	r.drawRates(c)
	for _, g := range r.gaps {
		from, to := g.from.Sub(r.zero).Milliseconds(), g.to.Sub(r.zero).Milliseconds()
		c.Gaps = append(c.Gaps, box{X: r.x(from), Y: latencyTop, W: max(1, r.x(to)-r.x(from)), H: rateEnd - latencyTop,
			Title: fmt.Sprintf("nothing was answered from %.1f s to %.1f s: %d ms", seconds(from), seconds(to), to-from)})
	}
	r.drawFaults(c)
	return c
}

// ticks returns round times, at most 13.
func ticks(durationMS int64) (out []int64) {
	step := int64(1000)
	for _, s := range []int64{1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200} {
		if step = s * 1000; durationMS/step <= 12 {
			break
		}
	}
	for t := int64(0); t <= durationMS; t += step {
		out = append(out, t)
	}
	return out
}

// drawLatency draws the band of the percentiles and the slowest operations.
func (r *Report) drawLatency(c *chart) {
	var up, down []string
	flush := func() { // where nothing was answered there is nothing to draw
		if len(up) > 0 {
			c.Medians = append(c.Medians, strings.Join(down, " "))
			slices.Reverse(down)
			c.Bands = append(c.Bands, strings.Join(slices.Concat(up, down), " "))
		}
		up, down = nil, nil
	}
	for i, b := range r.Timeline {
		if b.Answered == 0 {
			flush()
			continue
		}
		for _, at := range []float64{0, 1} { // steps, so that a single part is to be seen, too
			x := chartLeft + (chartRight-chartLeft)*(float64(i)+at)/float64(len(r.Timeline))
			up = append(up, fmt.Sprintf("%.1f,%.1f", x, y(b.P99MS)))
			down = append(down, fmt.Sprintf("%.1f,%.1f", x, y(b.MedianMS)))
		}
	}
	flush()
	for _, d := range r.dots {
		m := mote{X: r.x(d.atMS), Y: y(d.tookMS), Class: classOf(d.kind), Title: fmt.Sprintf("%v, %.0f ms, answered at %.2f s", d.kind, d.tookMS, seconds(d.atMS))}
		if d.failed {
			m.Class, m.Title = "d-failed", fmt.Sprintf("%v, given up after %.0f ms at %.2f s", d.kind, d.tookMS, seconds(d.atMS))
		}
		c.Dots = append(c.Dots, m)
	}
}

// classOf returns the class by which operations of a kind are drawn.
func classOf(k history.Kind) string {
	switch k {
	case history.KindAppend, history.KindPut:
		return "d-write"
	case history.KindRead, history.KindStat, history.KindTail:
		return "d-read"
	}
	return "d-name"
}

// drawRates draws how much was answered.
func (r *Report) drawRates(c *chart) {
	most := 1
	for _, b := range r.Timeline {
		most = max(most, b.Answered)
	}
	width := (chartRight - chartLeft) / float64(len(r.Timeline))
	perSecond := float64(len(r.Timeline)) / seconds(r.DurationMS)
	c.RateMax = fmt.Sprintf("%.0f/s", float64(most)*perSecond)
	for i, b := range r.Timeline {
		if b.Answered == 0 {
			continue
		}
		h := (rateEnd - rateTop) * float64(b.Answered) / float64(most)
		c.Rates = append(c.Rates, box{X: chartLeft + float64(i)*width, Y: rateEnd - h, W: width * 0.86, H: h,
			Title: fmt.Sprintf("%.0f answers a second at %.1f s", float64(b.Answered)*perSecond, seconds(b.AtMS))})
	}
}

// drawFaults draws a lane for each node, with the faults that befell it.
func (r *Report) drawFaults(c *chart) {
	lane := map[string]float64{}
	for i, n := range r.nodes {
		lane[n] = lanesTop + laneHeight*float64(i)
		c.Lanes = append(c.Lanes, label{chartLeft - 8, lane[n] + laneHeight/2, n})
	}
	for _, f := range r.FaultList {
		if f.Skipped != "" {
			continue
		}
		for _, n := range f.Nodes {
			b := box{X: r.x(f.BeginMS), Y: lane[n] + (laneHeight-barHeight)/2, W: max(4, r.x(f.EndMS)-r.x(f.BeginMS)), H: barHeight, Class: f.Kind.color(),
				Title: fmt.Sprintf("%s, %.1f s to %.1f s", f.Text, seconds(f.BeginMS), seconds(f.EndMS))}
			if b.W > charWidth*float64(len(f.Kind))+6 {
				b.Text = string(f.Kind)
			}
			c.Bars = append(c.Bars, b)
		}
	}
}

// The places of a violation's time line.
const (
	storyTop   = 8.0
	storyRow   = 30.0
	storyLeft  = 130.0
	storyRight = 1088.0
)

// storyChart is a violation with its shortest history as a time line: a row for each
// operation, in the order of the calls.
type storyChart struct {
	Number              int
	Rule, Subject, Text string
	Width, Height       float64
	During              []string // the faults that went on
	Rows                []storyLine
	More                int
}

type storyLine struct {
	Who   label
	Bar   box
	Open  bool // it has not returned
	Text  label
	Class string
}

func (r *Report) storyChart(i int) storyChart {
	v := &r.ViolationList[i]
	s := storyChart{Number: i + 1, Rule: v.Rule, Subject: v.Subject, Text: v.Text, Width: chartWidth}
	s.During = r.during(v.Ops)
	ops := v.Ops
	if len(ops) > storyMax {
		s.More, ops = len(ops)-storyMax, ops[:storyMax]
	}
	if len(ops) == 0 {
		return s
	}
	// The rows keep the order of the calls and returns, not their distances: what is milliseconds
	// long and what took seconds is to be seen on one page.
	place := map[clock.Instant]int{}
	for _, at := range instants(ops) {
		place[at] = len(place)
	}
	step := (storyRight - storyLeft) / float64(max(1, len(place)))
	for i := range ops {
		op := &ops[i]
		top := storyTop + storyRow*float64(i)
		from, to := storyLeft+step*float64(place[op.Call]), storyRight
		if op.Return != history.Open {
			to = storyLeft + step*float64(place[op.Return])
		}
		row := storyLine{
			Who:  label{storyLeft - 8, top + 17, who(op)},
			Bar:  box{X: from, Y: top + 20, W: max(6, to-from), H: 6, Class: classOf(op.Kind)},
			Open: op.Return == history.Open,
			Text: label{from, top + 14, fmt.Sprintf("%.3f s  %s", float64(op.Call.Sub(r.zero))/1e9, tell(op))},
		}
		if row.Text.X+charWidth*float64(len(row.Text.Text)) > storyRight {
			row.Text.X = max(storyLeft, storyRight-charWidth*float64(len(row.Text.Text)))
		}
		s.Rows = append(s.Rows, row)
	}
	s.Height = storyTop + storyRow*float64(len(ops)) + 8
	return s
}
