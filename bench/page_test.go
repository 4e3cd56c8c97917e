package bench

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"testing"
)

// pageReport is a report of a load at 5 numbers of clients, 2 of chunk servers and 3 sizes, and of
// what is measured at one point.
func pageReport(command string) *Report {
	r := &Report{Command: command, Release: "0", Machine: "a machine"}
	var points, single []Result
	add := func(verb, what, unit string, c cell, v float64) {
		points = append(points, Result{Name: fmt.Sprintf("%s/%d/%s", verb, c.Clients, what), Value: v, Unit: unit, Bare: v / 2, Ratio: 2, Runs: 7, Min: v * 0.9, Max: v * 1.3,
			BareMin: v / 3, BareMax: v, Verb: verb, What: what, Clients: c.Clients, Servers: c.Servers, RecordBytes: c.RecordBytes})
	}
	for _, servers := range []int{3, 6} {
		for _, bytes := range []int{100, 4096, 1 << 20} {
			for _, clients := range []int{1, 2, 4, 16, 128} {
				c, n := cell{clients, servers, bytes}, float64(clients)
				add("append", "rate", "records/s", c, 9000*n/(n+20))
				add("append", "throughput", "GiB/s", c, n/(n+20)*float64(bytes)/(1<<21))
				add("append", "cpu", "us/record", c, 70+500/n)
				for i, q := range quantiles {
					add("append", q.name, "ms", c, (2+n/20)*float64(1+i*i))
				}
			}
		}
	}
	single = append(single, Result{Name: "failover/master/longest", Value: 1.1, Unit: "s", Runs: 20, Min: 0.1, Max: 1.1})
	r.Add("append", points)
	r.Add("failover", single)
	return r
}

// TestPage draws a report: it is well-formed, has what was measured, stays within its edges, and
// shows a hostile command line without obeying it.
func TestPage(t *testing.T) {
	const hostile = `</code><script>alert("x")</script>`
	r := pageReport(hostile)
	var b strings.Builder
	if err := r.Page(&b); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	for _, want := range []string{"Against clients", "Against chunk servers", "Against bytes of a record", "Processor time", "How long an operation took",
		"append, records/s", "6 chunk servers, 4 KiB", "the same cluster with batches of one", "failover/master/longest", "a machine"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	for _, bad := range []string{"<script", "NaN", "Inf", "ZgotmplZ", "http:", "https:"} {
		if strings.Contains(page, bad) {
			t.Errorf("the page has %q", bad)
		}
	}
	for d := xml.NewDecoder(strings.NewReader(strings.TrimSuffix(strings.TrimSpace(page[strings.Index(page, "<body>"):]), "</html>"))); ; {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	pictures := 0
	for _, s := range r.page().Sections {
		for _, p := range s.Pictures {
			pictures++
			for _, c := range p.Curves {
				for _, d := range c.Dots {
					if d.X < p.Left || d.X > p.Right || min(d.Y, d.High) < p.Top-0.5 || max(d.Y, d.Low) > p.Bottom+0.5 {
						t.Errorf("%s: %+v is outside", p.Title, d)
					}
				}
			}
			for i, l := range p.Xs[1:] {
				if last := p.Xs[i]; l.X-last.X < charWidth*float64(len(l.Text)+len(last.Text))/2 {
					t.Errorf("%s: %q and %q overlap", p.Title, last.Text, l.Text)
				}
			}
		}
	}
	if pictures != 1+1+1+1+linesMax {
		t.Errorf("there are %d pictures", pictures)
	}
}

// TestLines: of more lines than a picture has room for, the first, the last and some between are drawn.
func TestLines(t *testing.T) {
	var list []*Result
	for n := range 9 {
		list = append(list, &Result{Clients: 2, Servers: 1, RecordBytes: n + 1}, &Result{Clients: 1, Servers: 1, RecordBytes: n + 1})
	}
	some, all := lines(list, 0)
	if all != 9 || len(some) != linesMax || some[0].name != "1 B" || some[linesMax-1].name != "9 B" || some[0].list[0].Clients != 1 {
		t.Errorf("%d of %d: %+v", len(some), all, some)
	}
}

// TestScales: what stands beside an axis is round, few, and reaches as far as the values do.
func TestScales(t *testing.T) {
	for _, most := range []float64{0, 1e-9, 0.07, 0.999, 1, 1.01, 4, 5, 7.3, 99, 12345, 1e9} {
		steps := ticks(most)
		if n := len(steps); steps[0] != 0 || steps[n-1] < most || n < 2 || n > 7 {
			t.Errorf("%g: %v", most, steps)
		}
	}
	if steps := decades(0.3, 1200); steps[0] != 0.1 || steps[len(steps)-1] != 10000 {
		t.Error(steps)
	}
	for v, want := range map[float64]string{0: "0", 0.12345: "0.123", 999.4: "999", 999.6: "1,000", 12345.6: "12,346", 1e6: "1,000,000"} {
		if got := amount(v); got != want {
			t.Errorf("%g: %s, want %s", v, got, want)
		}
	}
}
