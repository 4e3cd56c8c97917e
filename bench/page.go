package bench

import (
	"cmp"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/quarryfs/quarry/chaos"
)

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// Page writes the page of a report: one HTML file that needs nothing else, no network and no
// script.
func (r *Report) Page(w io.Writer) error { return pageTemplate.Execute(w, r.page()) }

// page is what the template draws.
type page struct {
	*Report
	Style    template.CSS
	Title    string
	Intro    string
	Tiles    []tile
	Sections []section
	Tables   []table
	Facts    []fact
}

// tile is one number of the head.
type tile struct{ Value, Unit, Name, Beside string }

// section is pictures of one kind.
type section struct {
	Name, About string
	Pictures    []*picture
}

// table is all figures of one verb.
type table struct {
	Name, About, Bare string
	Rows              []row
}

type row struct {
	Name, Unit           string
	Value, Spread        string
	Bare, Ratio          string
	Low, Width, At, Else float64 // where they stand between 0 and 100; Else is the bare program's
	Compared             bool
}

type fact struct{ Name, Value string }

// group is the results of one figure of one kind of operation, at all points.
type group struct {
	verb    *Verb
	subject string // "small, put"
	figure  string // "rate"
	list    []*Result
}

// groups puts the results that were measured at points together, in their order.
func (r *Report) groups() (out []*group) {
	for i := range r.Results {
		x := &r.Results[i]
		if x.Verb == "" {
			continue
		}
		kind, figure := "", x.What
		if at := strings.LastIndexByte(x.What, '/'); at >= 0 {
			kind, figure = x.What[:at], x.What[at+1:]
		}
		subject := strings.ReplaceAll(x.Verb, "-", " ")
		if kind != "" {
			subject += ", " + kind
		}
		at := slices.IndexFunc(out, func(g *group) bool { return g.subject == subject && g.figure == figure })
		if at < 0 {
			at, out = len(out), append(out, &group{verb: verbOf(x.Name), subject: subject, figure: figure})
		}
		out[at].list = append(out[at].list, x)
	}
	return out
}

// verbOf returns the verb that a figure belongs to; one without a name if it is none of ours.
func verbOf(figure string) *Verb {
	name, _, _ := strings.Cut(figure, "/")
	if v := Find(name); v != nil {
		return v
	}
	return &Verb{}
}

// bareText names what a verb is compared with, in a legend.
func (g *group) bareText() string {
	options := strings.Split(g.verb.Bare, "; ")
	switch {
	case len(options) > 1 && (strings.HasSuffix(g.subject, ", read") || slices.Contains(strings.Fields(g.subject), "local")):
		return options[len(options)-1]
	}
	return options[0]
}

// axis is what a figure was mainly varied along.
func (g *group) axis() int {
	for i := range axes {
		if len(axes[i].values(g.list)) > 1 {
			return i
		}
	}
	return 0
}

func (r *Report) page() *page {
	p := &page{Report: r, Style: chaos.PageStyle(), Title: strings.Join(r.Verbs, ", ")}
	groups := r.groups()
	p.Intro = r.intro(len(groups) > 0)
	p.Tiles = tiles(groups)
	about := [...]string{
		"All clients together. A dashed line is the bare program, which does the least that the same work could cost here, or the same work without what is measured.",
		"", "",
	}
	for i := range axes {
		s := section{Name: "Against " + axes[i].name, About: about[i]}
		for _, g := range groups {
			if g.main(groups, i) && (i == 0 || len(axes[i].values(g.list)) > 1) {
				s.Pictures = append(s.Pictures, trend(g.subject, g.list, i, g.bareText()))
			}
		}
		p.Sections = append(p.Sections, s)
	}
	costs := section{Name: "Processor time", About: "Of all processes together, masters, chunk servers and clients; of a running cluster, the clients' only."}
	waits := section{Name: "How long an operation took", About: "A percentile of each run, of which the median is drawn; the shade is from the median operation to the 99th of a hundred. The scale is logarithmic."}
	for _, g := range groups {
		if strings.HasPrefix(g.figure, "cpu") {
			costs.Pictures = append(costs.Pictures, trend(g.subject, g.list, g.axis(), g.bareText()))
		}
		if g.figure == "p50" {
			waits.Pictures = append(waits.Pictures, g.fans(groups)...)
		}
	}
	p.Sections = append(p.Sections, costs, waits)
	p.Sections = slices.DeleteFunc(p.Sections, func(s section) bool { return len(s.Pictures) == 0 })
	p.Tables = r.tables()
	p.Facts = []fact{{"command", r.Command}, {"release", r.Release}, {"machine", r.Machine}, {"load of the machine", r.Load},
		{"began", r.Began.UTC().Format("2 January 2006, 15:04 UTC")}, {"it took", (time.Duration(r.Duration) * time.Second).String()}}
	return p
}

// main reports whether a figure is the one that is drawn of its subject along an axis: how many
// operations a second if they are counted, else how many bytes; against the size, always bytes.
func (g *group) main(all []*group, along int) bool {
	if g.figure == "rate" {
		return along != 2
	}
	counted := slices.ContainsFunc(all, func(o *group) bool { return o.subject == g.subject && o.figure == "rate" })
	return g.figure == "throughput" && (along == 2 || !counted)
}

// fans draws how long the operations of a subject took, a picture for each line.
func (g *group) fans(all []*group) (out []*picture) {
	along := g.axis()
	names, _ := lines(g.list, along)
	for _, l := range names {
		percentiles := map[string]line{}
		for _, o := range all {
			if o.subject == g.subject {
				other, _ := lines(o.list, along)
				if i := slices.IndexFunc(other, func(x line) bool { return x.name == l.name }); i >= 0 {
					percentiles[o.figure] = other[i]
				}
			}
		}
		for name := range percentiles {
			if !slices.ContainsFunc(quantiles[:], func(q quantile) bool { return q.name == name }) {
				delete(percentiles, name)
			}
		}
		title := g.subject
		if l.name != "" {
			title += ", " + l.name
		}
		out = append(out, fan(title, percentiles, along))
	}
	return out
}

func (r *Report) intro(points bool) string {
	runs := 0
	for _, x := range r.Results {
		if x.Verb != "" || runs == 0 {
			runs = max(runs, x.Runs)
		}
	}
	if !points {
		return "Each figure is the median of its runs, with the least and the greatest of them."
	}
	return fmt.Sprintf("Each figure is the median of %d interleaved runs, each of which measures all points and the bare programs in turn. Bars go from the least run to the greatest. What counts is the ratio, and the processor time: an absolute rate is a remark about one machine on one day.", runs)
}

// tiles are the highest figures of each subject.
func tiles(groups []*group) (out []tile) {
	for _, g := range groups {
		if !g.main(groups, 0) {
			continue
		}
		best := slices.MaxFunc(g.list, func(a, b *Result) int { return cmp.Compare(a.Value, b.Value) })
		factor, unit := inUnit(best.Unit, best.Value)
		t := tile{Value: amount(best.Value * factor), Unit: unit, Name: g.subject}
		for i := range axes {
			if a := &axes[i]; len(a.values(g.list)) > 1 {
				t.Name += ", " + strings.TrimSuffix(a.text(a.of(best))+a.unit, map[bool]string{true: "s"}[a.of(best) == 1])
			}
		}
		if best.Ratio > 0 {
			t.Beside = amount(best.Ratio) + " times the bare program"
		}
		out = append(out, t)
	}
	return out
}

// tables lists everything.
func (r *Report) tables() (out []table) {
	for i := range r.Results {
		x := &r.Results[i]
		name, _, _ := strings.Cut(x.Name, "/")
		if x.Verb == "" && len(r.Verbs) == 1 { // meta names its figures by what is done
			name = r.Verbs[0]
		}
		if len(out) == 0 || out[len(out)-1].Name != name {
			t := table{Name: name}
			if v := Find(name); v != nil {
				t.About, t.Bare = v.About, v.Bare
			}
			out = append(out, t)
		}
		out[len(out)-1].Rows = append(out[len(out)-1].Rows, x.row())
	}
	return out
}

func (x *Result) row() row {
	most := max(x.Max, x.BareMax, x.Bare, x.Value)
	factor, unit := inUnit(x.Unit, most)
	at := func(v float64) float64 {
		if most <= 0 {
			return 0
		}
		return 100 * v / most
	}
	r := row{Name: x.Name, Unit: unit, Value: amount(x.Value * factor), Spread: amount(x.Min*factor) + " – " + amount(x.Max*factor),
		Bare: "–", Ratio: "–", Low: at(x.Min), Width: at(x.Max - x.Min), At: at(x.Value), Else: at(x.Bare), Compared: x.Bare > 0}
	if r.Compared {
		r.Bare, r.Ratio = amount(x.Bare*factor), amount(x.Ratio)
	}
	return r
}
