package chaos

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"
)

//go:embed page.html
var pageText string

//go:embed page.css
var pageStyle string

// PageStyle is the style sheet that the pages of Quarry's reports have in common: they need no
// network and no script, are light or dark as the reader's machine is, and print.
func PageStyle() template.CSS { return template.CSS(pageStyle) }

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// Page writes the page of a report: one HTML file that needs nothing else, no network and no
// script.
func (r *Report) Page(w io.Writer) error {
	return pageTemplate.Execute(w, r.page())
}

// page is what the template draws.
type page struct {
	*Report
	Style   template.CSS
	Kind    string // of the verdict, a class
	Intro   string
	Tiles   []tile
	Chart   *chart
	Checks  []checkRow
	Faults  []faultRow
	Stories []storyChart
	Repeat  string
}

// tile is one number of the head.
type tile struct{ Value, Unit, Name string }

type checkRow struct {
	Check
	Mark string
}

type faultRow struct {
	Fault
	Number     int
	At, Lasted string
	Effect     string
	Color      string // a class
}

func (r *Report) page() *page {
	p := &page{Report: r, Style: PageStyle(), Kind: r.Verdict, Chart: r.chart(), Intro: r.intro(), Tiles: r.tiles()}
	for _, c := range r.Checks {
		p.Checks = append(p.Checks, checkRow{c, mark(c.Verdict)})
	}
	for i, f := range r.FaultList {
		row := faultRow{Fault: f, Number: i + 1, At: fmt.Sprintf("%.1f s", seconds(f.BeginMS)), Lasted: fmt.Sprintf("%.1f s", seconds(f.EndMS-f.BeginMS)), Color: f.Kind.color()}
		switch {
		case f.Skipped != "":
			row.Lasted, row.Effect = "–", "not done: "+f.Skipped
		case f.UnavailableMS > 0:
			row.Effect = fmt.Sprintf("nothing was answered for %.1f s", seconds(f.UnavailableMS))
		default:
			row.Effect = "clients were answered all the time"
		}
		p.Faults = append(p.Faults, row)
	}
	for i := range r.ViolationList {
		p.Stories = append(p.Stories, r.storyChart(i))
	}
	p.Repeat = fmt.Sprintf("quarry selftest --seed %d --duration %v --masters-count %d --servers-count %d --clients-count %d", r.Seed,
		(time.Duration(r.DurationMS) * time.Millisecond).Round(time.Second), r.Masters, r.Servers, r.Clients)
	return p
}

// intro tells the run in a few sentences.
func (r *Report) intro() string {
	var b strings.Builder
	fmt.Fprintf(&b, "For %.0f seconds %d %s worked on a cluster of %d %s and %d chunk %s while %d %s done to it. ", seconds(r.DurationMS), r.Clients, plural(r.Clients, "client"),
		r.Masters, plural(r.Masters, "master"), r.Servers, plural(r.Servers, "server"), r.Faults, map[bool]string{true: "fault was", false: "faults were"}[r.Faults == 1])
	switch r.Verdict {
	case Violated:
		b.WriteString("What they saw cannot be explained by what Quarry promises. The shortest part of the history that shows it is below.")
	case Inconclusive:
		b.WriteString("Nothing that they saw breaks a promise, but not everything could be checked: see below.")
	default:
		b.WriteString("Everything that they saw, and every byte that was left at the end, is what Quarry promises: nothing acknowledged was lost, doubled or moved, and no read was stale.")
	}
	if r.Interrupted {
		b.WriteString(" The run was ended early; the verdict is on what had been done.")
	}
	return b.String()
}

func (r *Report) tiles() []tile {
	return []tile{
		{Thousands(r.Violations), "", plural(r.Violations, "violation")},
		{Thousands(r.Operations), "", "operations"},
		{Thousands(r.Acknowledged), "", "acknowledged"},
		{Thousands(r.Faults), "", plural(r.Faults, "fault")},
		{fmt.Sprintf("%.1f", seconds(r.LongestUnavailableMS)), "s", "longest unavailability"},
		{fmt.Sprintf("%.1f", seconds(r.SlowestMS)), "s", "slowest answer"},
	}
}

// color returns the class by which faults of a kind are drawn.
func (k Kind) color() string {
	switch k {
	case Kill, Power:
		return "f-kill"
	case Restart:
		return "f-restart"
	case Freeze:
		return "f-freeze"
	case Partition, Slow, Reset:
		return "f-net"
	}
	return "f-disk"
}
