package history

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/quarryfs/quarry/clock"
)

// describe says in words what an operation was and what it did.
func describe(op *Op) string {
	var b strings.Builder
	switch op.Worker {
	case beforeWorker:
		b.WriteString("before: ")
	default:
		fmt.Fprintf(&b, "worker %d: ", op.Worker)
	}
	b.WriteString(op.Kind.String())
	if op.Class == ClassNames {
		fmt.Fprintf(&b, " %q", op.Path)
		if op.Now {
			b.WriteString(" for good")
		}
		if op.Kind == KindRename {
			fmt.Fprintf(&b, " to %q", op.To)
		}
	}
	switch op.Kind {
	case KindAppend:
		fmt.Fprintf(&b, " of record %d (%d bytes)", op.Sequence, op.Length)
	case KindChmod:
		fmt.Fprintf(&b, " to %#o", op.Mode)
	case KindPut, KindUndelete:
		fmt.Fprintf(&b, " of value %s", valueText(op.Value))
	}
	switch op.Outcome {
	case Done:
		b.WriteString(result(op))
	case Failed:
		fmt.Fprintf(&b, " failed: %v", op.Error)
	default:
		b.WriteString(" has an unknown outcome")
	}
	if op.Bad != "" {
		b.WriteString(": " + op.Bad)
	}
	return b.String()
}

// result says what an operation that was done returned.
func result(op *Op) string {
	switch {
	case op.Kind == KindAppend:
		return fmt.Sprintf(" was acknowledged at %d", op.Offset)
	case op.Kind == KindStat && op.Class == ClassLog:
		return fmt.Sprintf(" told %d bytes", op.Length)
	case op.Kind == KindStat && op.Found == FoundDir:
		return fmt.Sprintf(" found a directory of %d entries%s", op.Length, modeText(op.Mode))
	case op.Kind == KindStat:
		return " found a file" + modeText(op.Mode)
	case op.Kind == KindList:
		return fmt.Sprintf(" showed %q", op.Names)
	case op.Class == ClassLog && op.ToEnd:
		return fmt.Sprintf(" saw %d to %d, the end", op.Offset, op.End())
	case op.Class == ClassLog:
		return fmt.Sprintf(" saw %d to %d", op.Offset, op.End())
	case op.Kind == KindRead:
		return " saw value " + valueText(op.Value)
	}
	return " was done"
}

// modeText tells a mode that was seen, if one was.
func modeText(mode uint32) string {
	if mode == 0 {
		return ""
	}
	return fmt.Sprintf(", mode %#o", mode)
}

// valueText shortens a value: whose it is, and which of theirs.
func valueText(value uint64) string {
	if value == 0 {
		return "none"
	}
	return fmt.Sprintf("%d.%d", value>>32, uint32(value))
}

// lineWidth is how many columns the time line of Explain has.
const lineWidth = 40

// Explain writes a violation for people: what was promised, what happened, and the operations
// that show it with a line each on which its time is drawn.
func (v *Violation) Explain(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "VIOLATION (%s) of %s\n  promised: %s\n  found:    %s\n", v.Checker, v.Subject, v.Rule, v.Text)
	first, last := Open, clock.Instant(0)
	for i := range v.Ops {
		op := &v.Ops[i]
		if op.Worker == beforeWorker {
			continue
		}
		first, last = min(first, op.Call), max(last, op.Call)
		if op.Return != Open {
			last = max(last, op.Return)
		}
	}
	for i := range v.Ops {
		op := &v.Ops[i]
		if op.Worker == beforeWorker {
			fmt.Fprintf(&b, "  %s  %s\n", strings.Repeat(" ", lineWidth), describe(op))
			continue
		}
		fmt.Fprintf(&b, "  %s  %s  [%s]\n", timeLine(op, first, last), describe(op), times(op, first))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// timeLine draws when an operation was under way; '>' if it is not known until when.
func timeLine(op *Op, first, last clock.Instant) string {
	column := func(at clock.Instant) int {
		if last <= first {
			return 0
		}
		return int(float64(at-first) / float64(last-first) * (lineWidth - 1))
	}
	from, to, tip := column(op.Call), lineWidth-1, byte('>')
	if op.over() != Open {
		to, tip = column(op.Return), '|'
	}
	line := []byte(strings.Repeat(" ", lineWidth))
	for i := from; i <= to; i++ {
		line[i] = '-'
	}
	line[to] = tip
	line[from] = '|'
	return string(line)
}

// times says from when to when an operation was under way, from the first one on.
func times(op *Op, first clock.Instant) string {
	text := "+" + op.Call.Sub(first).Round(time.Microsecond).String()
	if op.over() == Open {
		return text + ", open"
	}
	return text + ", " + op.Return.Sub(op.Call).Round(time.Microsecond).String()
}
