package chaos

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/history"
)

// storyMax bounds the operations of a violation that are told.
const storyMax = 40

// story tells the operations of a violation, one a line, in the order of their calls.
func (r *Report) story(ops []history.Op) (lines []string) {
	for i := range ops {
		if i == storyMax {
			return append(lines, fmt.Sprintf("… and %d more, in the JSON", len(ops)-i))
		}
		op := &ops[i]
		until := "       …"
		if op.Return != history.Open {
			until = fmt.Sprintf("%8.3f", float64(op.Return.Sub(r.zero))/1e9)
		}
		lines = append(lines, fmt.Sprintf("%8.3f -%s s  %s: %s", float64(op.Call.Sub(r.zero))/1e9, until, who(op), tell(op)))
	}
	return lines
}

// who names the client and the worker of an operation, by the number that a violation's text uses.
func who(op *history.Op) string {
	if op.Final {
		return "at the end"
	}
	return fmt.Sprintf("client-%d, worker %d", op.Client+1, op.Worker)
}

// during returns the faults that went on while the operations of a violation were under way.
func (r *Report) during(ops []history.Op) (out []string) {
	from, to := int64(math.MaxInt64), int64(math.MinInt64)
	for i := range ops {
		op := &ops[i]
		if op.Final {
			continue
		}
		from, to = min(from, op.Call.Sub(r.zero).Milliseconds()), max(to, op.Call.Sub(r.zero).Milliseconds())
		if op.Return != history.Open {
			to = max(to, op.Return.Sub(r.zero).Milliseconds())
		}
	}
	for _, f := range r.FaultList {
		if f.Skipped == "" && f.BeginMS <= to && f.EndMS >= from {
			out = append(out, fmt.Sprintf("%.1f s to %.1f s: %s", seconds(f.BeginMS), seconds(f.EndMS), f.Text))
		}
	}
	if len(out) > duringMax {
		out = append(out[:duringMax], fmt.Sprintf("… and %d more", len(out)-duringMax))
	}
	return out
}

// duringMax bounds the faults that a violation names.
const duringMax = 12

// tell says what an operation was, and what came of it.
func tell(op *history.Op) string {
	what := op.Kind.String()
	if op.Path != "" {
		what += fmt.Sprintf(" %q", op.Path)
	}
	switch op.Kind {
	case history.KindAppend:
		what += fmt.Sprintf(" record %d (%d bytes)", op.Sequence, op.Length)
	case history.KindRename:
		what += fmt.Sprintf(" to %q", op.To)
	case history.KindPut:
		what += fmt.Sprintf(" content %x (%d bytes)", op.Value, op.Length)
	}
	switch op.Outcome {
	case history.Failed:
		return what + ": refused, " + op.Error.Error()
	case history.Unknown:
		return what + ": outcome unknown"
	}
	return what + resultOf(op)
}

// resultOf says what an operation that was acknowledged gave.
func resultOf(op *history.Op) string {
	switch op.Kind {
	case history.KindAppend:
		return fmt.Sprintf(" → at %d", op.Offset)
	case history.KindRead, history.KindTail:
		if op.Seen == nil {
			return fmt.Sprintf(" → content %x (%d bytes)", op.Value, op.Length)
		}
		end := ""
		if op.ToEnd {
			end = ", the end of the file"
		}
		return fmt.Sprintf(" at %d → %d bytes, %d records%s%s", op.Offset, op.Length, len(op.Seen.Records), end, records(op.Seen.Records))
	case history.KindStat:
		return fmt.Sprintf(" → length %d", op.Length)
	case history.KindList:
		return " → " + strings.Join(op.Names, " ")
	}
	return " → done"
}

// records names a few records that a read saw.
func records(list []history.Record) string {
	if len(list) == 0 {
		return ""
	}
	name := func(r history.Record) string { return fmt.Sprintf("record %d of worker %d", r.Sequence, r.Worker) }
	if len(list) == 1 {
		return ": " + name(list[0])
	}
	return fmt.Sprintf(": %s … %s", name(list[0]), name(list[len(list)-1]))
}

// instants returns when operations were called and returned, in order.
func instants(ops []history.Op) (out []clock.Instant) {
	for i := range ops {
		out = append(out, ops[i].Call)
		if ops[i].Return != history.Open {
			out = append(out, ops[i].Return)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
