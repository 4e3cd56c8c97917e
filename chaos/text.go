package chaos

import (
	"fmt"
	"strings"
)

// Text tells people what a run has come to.
func (r *Report) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s\n\n", strings.ToUpper(r.Headline()))
	fmt.Fprintf(&b, "  %-26s %s (%s acknowledged, %s refused, %s of unknown outcome)\n", "operations", Thousands(r.Operations),
		Thousands(r.Acknowledged), Thousands(sum(r.Refused)), Thousands(r.Unknown))
	fmt.Fprintf(&b, "  %-26s %s (%s)\n", "faults", Thousands(r.Faults), r.kindsText())
	fmt.Fprintf(&b, "  %-26s %.1f s, from %.1f s on\n", "longest unavailability", seconds(r.LongestUnavailableMS), seconds(r.UnavailableFromMS))
	fmt.Fprintf(&b, "  %-26s %.1f s\n", "slowest answer", seconds(r.SlowestMS))
	fmt.Fprintf(&b, "  %-26s %d\n", "violations", r.Violations)
	fmt.Fprintf(&b, "  %-26s %d\n", "seed", r.Seed)
	b.WriteString("\nWhat was checked:\n")
	for _, c := range r.Checks {
		fmt.Fprintf(&b, "  %s %-12s %s\n", mark(c.Verdict), c.Name, c.Looked)
		for _, l := range wrap(c.About, 76) {
			fmt.Fprintf(&b, "                 %s\n", l)
		}
		if c.Reasons != "" {
			fmt.Fprintf(&b, "                 not all of it: %s\n", c.Reasons)
		}
	}
	for i, v := range r.ViolationList {
		fmt.Fprintf(&b, "\nViolation %d of %d, in %s. The rule: %s. What happened:\n", i+1, r.Violations, v.Subject, v.Rule)
		for l := range strings.Lines(v.Text) {
			b.WriteString("  " + strings.TrimRight(l, "\n") + "\n")
		}
		for _, op := range r.story(v.Ops) {
			fmt.Fprintf(&b, "    %s\n", op)
		}
		if during := r.during(v.Ops); len(during) > 0 {
			b.WriteString("  Meanwhile:\n    " + strings.Join(during, "\n    ") + "\n")
		}
	}
	return b.String()
}

// Headline is the verdict in one sentence.
func (r *Report) Headline() string {
	switch r.Verdict {
	case Violated:
		return fmt.Sprintf("A promise was broken: %d %s found", r.Violations, plural(r.Violations, "violation"))
	case Inconclusive:
		return "No violation was found, but not everything could be checked"
	}
	return "Every promise was kept"
}

func plural(n int, noun string) string {
	if n == 1 {
		return noun
	}
	return noun + "s"
}

func seconds(ms int64) float64 { return float64(ms) / 1000 }

func sum(m map[string]int) (n int) {
	for _, v := range m {
		n += v
	}
	return n
}

// kindsText counts the faults of each kind.
func (r *Report) kindsText() string {
	count := map[Kind]int{}
	for _, f := range r.FaultList {
		if f.Skipped == "" {
			count[f.Kind]++
		}
	}
	var out []string
	for _, k := range Kinds() {
		if count[k] > 0 {
			out = append(out, fmt.Sprintf("%d %s", count[k], k))
		}
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ", ")
}

func mark(verdict string) string {
	switch verdict {
	case Violated:
		return "✗"
	case Inconclusive:
		return "?"
	}
	return "✓"
}

// wrap cuts a text into lines.
func wrap(s string, width int) (lines []string) {
	line := ""
	for word := range strings.FieldsSeq(s) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
