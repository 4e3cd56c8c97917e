package bench

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// axis is something that is varied, and along which curves are drawn.
type axis struct {
	name string // "clients", below the curve
	of   func(r *Result) int
	text func(n int) string
	unit string // of a value in a legend
}

var axes = [...]axis{
	{"clients", func(r *Result) int { return r.Clients }, strconv.Itoa, " clients"},
	{"chunk servers", func(r *Result) int { return r.Servers }, strconv.Itoa, " chunk servers"},
	{"bytes of a record or read", func(r *Result) int { return r.RecordBytes }, bytesText, ""},
}

// values returns the points of an axis at which there are results.
func (a *axis) values(list []*Result) (out []int) {
	for _, r := range list {
		out = append(out, a.of(r))
	}
	return slices.Compact(slices.Sorted(slices.Values(out)))
}

// line is the results of one figure along an axis, with nothing else that changes.
type line struct {
	name string
	list []*Result // in the order of the axis
}

// linesMax is how many lines there are in a picture.
const linesMax = 6

// lines splits the results of one figure into lines along an axis; of more than linesMax it takes some
// from the first to the last, and tells how many there are.
func lines(list []*Result, along int) (out []line, all int) {
	named := map[string]int{}
	for _, r := range list {
		var parts []string
		for i := range axes {
			if a := &axes[i]; i != along && len(a.values(list)) > 1 {
				parts = append(parts, strings.TrimSuffix(a.text(a.of(r))+a.unit, map[bool]string{true: "s"}[a.of(r) == 1]))
			}
		}
		name := strings.Join(parts, ", ")
		at, ok := named[name]
		if !ok {
			at = len(out)
			named[name], out = at, append(out, line{name: name})
		}
		out[at].list = append(out[at].list, r)
	}
	for _, l := range out {
		slices.SortFunc(l.list, func(a, b *Result) int { return axes[along].of(a) - axes[along].of(b) })
	}
	if all = len(out); all <= linesMax {
		return out, all
	}
	some := make([]line, linesMax)
	for i := range some {
		some[i] = out[i*(all-1)/(linesMax-1)]
	}
	return some, all
}

// The places of a picture, in units of its view box: small enough that its labels can be read on a
// phone.
const (
	pictureWidth  = 440.0
	pictureHeight = 236.0
	pictureLeft   = 50.0
	pictureRight  = 430.0
	pictureTop    = 10.0
	pictureBottom = 192.0
	pictureMargin = 18.0 // of the curve within it
	charWidth     = 6.4  // of a label, about
)

// picture is one pair of axes and what is drawn between them.
type picture struct {
	Title, About  string
	Width, Height float64
	Left, Right   float64
	Top, Bottom   float64
	XName         string
	Xs, Ys        []label
	Curves        []curve
	Bands         []string // polygons
	Legend        []key
	Note          string
}

type label struct {
	X, Y float64
	Text string
}

// curve is a line with a point for each result and its spread.
type curve struct {
	Class  string
	Points string
	Dots   []mote
}

type mote struct {
	X, Y, Low, High float64 // Low and High are where the spread ends
	Title           string
}

// key explains a class in the legend.
type key struct{ Class, Text string }

// scale says where values stand.
type scale struct {
	log       bool
	low, high float64 // values at its ends
	from, to  float64 // places
}

func (s scale) at(v float64) float64 {
	f := func(v float64) float64 { return v }
	if s.log {
		f = math.Log
		v = max(v, s.low)
	}
	if s.low == s.high {
		return (s.from + s.to) / 2
	}
	return s.from + (s.to-s.from)*(f(v)-f(s.low))/(f(s.high)-f(s.low))
}

// newPicture draws the axes of a picture whose greatest value is most. least other than 0 asks for a
// logarithmic scale.
func newPicture(title string, along *axis, values []int, least, most float64) (*picture, scale, scale) {
	p := &picture{Title: title, Width: pictureWidth, Height: pictureHeight, Left: pictureLeft, Right: pictureRight, Top: pictureTop, Bottom: pictureBottom, XName: along.name}
	first, last := float64(values[0]), float64(values[len(values)-1])
	x := scale{log: last > 8*first, low: first, high: last, from: pictureLeft + pictureMargin, to: pictureRight - pictureMargin}
	if x.log {
		p.XName += ", logarithmic"
	}
	for _, v := range values {
		l := label{x.at(float64(v)), pictureBottom + 16, along.text(v)}
		for n := len(p.Xs); n > 0 && p.Xs[n-1].X+charWidth*float64(len(p.Xs[n-1].Text)+len(l.Text))/2+6 > l.X; n = len(p.Xs) {
			p.Xs = p.Xs[:n-1] // the last value is always there
		}
		p.Xs = append(p.Xs, l)
	}
	y := scale{log: least > 0, from: pictureBottom, to: pictureTop}
	steps := ticks(most)
	if y.log {
		steps = decades(least, most)
		y.low = steps[0]
	}
	y.high = steps[len(steps)-1]
	for _, v := range steps {
		p.Ys = append(p.Ys, label{pictureLeft - 7, y.at(v), amount(v)})
	}
	return p, x, y
}

// ticks returns round values from 0 to at least most, about five.
func ticks(most float64) []float64 {
	if most <= 0 {
		return []float64{0, 1}
	}
	step := math.Pow(10, math.Floor(math.Log10(most/4)))
	for _, f := range []float64{1, 2, 2.5, 5, 10} {
		if 5*step*f >= most {
			step *= f
			break
		}
	}
	out := []float64{0}
	for i := 1; out[len(out)-1] < most; i++ {
		out = append(out, float64(i)*step)
	}
	return out
}

// decades returns the powers of ten from at most least to at least most.
func decades(least, most float64) (out []float64) {
	from, to := int(math.Floor(math.Log10(least))), int(math.Ceil(math.Log10(most)))
	for i := from; i <= max(to, from+1); i++ {
		out = append(out, math.Pow10(i))
	}
	return out
}

// trend draws the median of one figure along an axis, with its spread, and dashed the bare program's.
func trend(subject string, list []*Result, along int, bare string) *picture {
	a := &axes[along]
	ls, all := lines(list, along)
	most := 0.0
	for _, l := range ls {
		for _, r := range l.list {
			most = max(most, r.Max, r.BareMax)
		}
	}
	factor, unit := inUnit(list[0].Unit, most)
	p, x, y := newPicture(subject+", "+unit, a, a.values(list), 0, most*factor)
	compared := false
	for i, l := range ls {
		// beside each other where they would hide each other's spread
		aside := 3 * (float64(i) - float64(len(ls)-1)/2)
		ours, other := curve{Class: fmt.Sprintf("c%d", i)}, curve{Class: fmt.Sprintf("c%d bare", i)}
		for _, r := range l.list {
			at := x.at(float64(a.of(r))) + aside
			where := fmt.Sprintf("%s %s", a.text(a.of(r)), strings.TrimSuffix(a.name, " of a record or read"))
			ours.Dots = append(ours.Dots, mote{at, y.at(r.Value * factor), y.at(r.Min * factor), y.at(r.Max * factor),
				fmt.Sprintf("%s: %s %s (%s to %s)", where, amount(r.Value*factor), unit, amount(r.Min*factor), amount(r.Max*factor))})
			if r.Bare > 0 {
				compared = true
				other.Dots = append(other.Dots, mote{at, y.at(r.Bare * factor), y.at(r.BareMin * factor), y.at(r.BareMax * factor),
					fmt.Sprintf("%s: bare %s %s (%s to %s), ratio %s", where, amount(r.Bare*factor), unit, amount(r.BareMin*factor), amount(r.BareMax*factor), amount(r.Ratio))})
			}
		}
		name := l.name
		if name == "" {
			name = "Quarry"
		}
		p.Legend = append(p.Legend, key{ours.Class, name})
		p.Curves = append(p.Curves, other.joined(), ours.joined())
	}
	if compared {
		p.Legend = append(p.Legend, key{"bare", bare})
	}
	if all > len(ls) {
		p.Note = fmt.Sprintf("%d of %d lines; the table has all.", len(ls), all)
	}
	p.About = fmt.Sprintf("%s against %s", p.Title, a.name)
	return p
}

// joined draws the line through a curve's points.
func (c curve) joined() curve {
	var points []string
	for _, d := range c.Dots {
		points = append(points, fmt.Sprintf("%.1f,%.1f", d.X, d.Y))
	}
	c.Points = strings.Join(points, " ")
	return c
}

// fan draws how long operations took along an axis: the percentiles of one line, by name.
func fan(subject string, percentiles map[string]line, along int) *picture {
	a, least, most := &axes[along], math.Inf(1), 0.0
	for _, l := range percentiles {
		for _, r := range l.list {
			least, most = min(least, max(r.Value, 1e-3)), max(most, r.Value)
		}
	}
	p, x, y := newPicture(subject+", ms", a, a.values(percentiles["p50"].list), least, most)
	var up, down []string
	for i, q := range quantiles {
		c := curve{Class: fmt.Sprintf("q%d", i)}
		for _, r := range percentiles[q.name].list {
			d := mote{X: x.at(float64(a.of(r))), Y: y.at(r.Value), Title: fmt.Sprintf("%s %s: %s %s ms (%s to %s)", a.text(a.of(r)), a.name, q.name, amount(r.Value), amount(r.Min), amount(r.Max))}
			d.Low, d.High = d.Y, d.Y
			c.Dots = append(c.Dots, d)
			at := fmt.Sprintf("%.1f,%.1f", d.X, d.Y)
			switch q.name {
			case "p50":
				down = append(down, at)
			case "p99":
				up = append(up, at)
			}
		}
		p.Curves = append(p.Curves, c.joined())
		p.Legend = append(p.Legend, key{c.Class, q.name})
	}
	slices.Reverse(down)
	p.Bands = []string{strings.Join(slices.Concat(up, down), " ")}
	p.About = fmt.Sprintf("Percentiles of %s against %s", p.Title, a.name)
	return p
}

// inUnit returns by what values of a unit are to be multiplied to be read easily when the greatest is
// most, and their unit then.
func inUnit(unit string, most float64) (factor float64, name string) {
	switch {
	case strings.HasPrefix(unit, "GiB/") && most < 0.5:
		return 1024, "M" + unit[1:]
	case strings.HasPrefix(unit, "us/") && most >= 5000:
		return 1e-3, "ms" + unit[2:]
	case strings.HasPrefix(unit, "us/"):
		return 1, "µ" + unit[1:]
	}
	return 1, unit
}
