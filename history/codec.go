package history

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// A history is written as lines of JSON: the first one says what it is, each further one is
// an operation.
//
//	{"quarry_history":1,"seed":7}
//	{"client":0,"worker":2,"kind":"append","class":"log","subject":"/history/log/0",…}

// Version is the number of the format.
const Version = 1

const (
	// lineMax bounds a line, in bytes: an operation shows at most readMax bytes of a log.
	lineMax = 16 << 20
	// namesMax bounds the names that one list shows.
	namesMax = 10_000
	// offsetMax bounds offsets and lengths, so that sums of two do not overflow.
	offsetMax = 1 << 60
)

// header is the first line.
type header struct {
	Version int    `json:"quarry_history"`
	Seed    uint64 `json:"seed"`
	Full    bool   `json:"full,omitempty"`
}

// plain is an Op without its methods.
type plain Op

// MarshalJSON implements json.Marshaler: an operation that has not returned has no "return".
func (o Op) MarshalJSON() ([]byte, error) {
	line := struct {
		plain
		Return *clock.Instant `json:"return,omitempty"`
	}{plain: plain(o)}
	if o.Return != Open {
		line.Return = &o.Return
	}
	return json.Marshal(line)
}

// UnmarshalJSON implements json.Unmarshaler. It refuses what no workload records.
func (o *Op) UnmarshalJSON(b []byte) error {
	var line struct {
		plain
		Return *clock.Instant `json:"return"`
	}
	if err := strict(b, &line); err != nil {
		return err
	}
	*o = Op(line.plain)
	o.Return = Open
	if line.Return != nil {
		o.Return = *line.Return
	}
	if text := o.fault(); text != "" {
		return quarry.Errorf("history", quarry.Invalid, "", "%s", text)
	}
	return nil
}

// MarshalJSON implements json.Marshaler: [worker, sequence, length].
func (r Record) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, "[%d,%d,%d]", r.Worker, r.Sequence, r.Length), nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (r *Record) UnmarshalJSON(b []byte) error {
	var numbers []int64
	if err := json.Unmarshal(b, &numbers); err != nil {
		return err
	}
	if len(numbers) != 3 || numbers[0] < 0 || numbers[0] > math.MaxInt32 || numbers[1] < 0 || numbers[1] > math.MaxUint32 ||
		numbers[2] < HeaderBytes || numbers[2] > maxRecordBytes {
		return quarry.Errorf("history", quarry.Invalid, "", "%v is no record", numbers)
	}
	*r = Record{int32(numbers[0]), uint32(numbers[1]), uint32(numbers[2])}
	return nil
}

// fault returns what cannot be about an operation; "" if nothing.
func (o *Op) fault() string {
	switch {
	case o.Kind == 0 || o.Class == 0 || o.Outcome == 0:
		return "it lacks a kind, class or outcome"
	case o.Worker < beforeWorker || o.Client < beforeWorker:
		return fmt.Sprintf("worker %d of client %d", o.Worker, o.Client)
	case o.Offset < 0 || o.Length < 0 || o.Offset > offsetMax || o.Length > offsetMax:
		return fmt.Sprintf("offset %d, length %d", o.Offset, o.Length)
	case o.KeepNS < 0 || o.KeepNS > offsetMax:
		return fmt.Sprintf("a trash that keeps files for %d ns", o.KeepNS)
	case o.Return < o.Call || o.Outcome != Unknown && o.Return == Open:
		return fmt.Sprintf("it returned at %d and was called at %d", o.Return, o.Call)
	case o.Kind == KindAppend && (o.Length < HeaderBytes || o.Length > maxRecordBytes || o.Class != ClassLog):
		return fmt.Sprintf("a record of %d bytes", o.Length)
	case len(o.Subject) > quarry.PathBytesMax || len(o.Path) > quarry.PathBytesMax || len(o.To) > quarry.PathBytesMax:
		return "a path that is too long"
	case len(o.Names) > namesMax:
		return fmt.Sprintf("%d names", len(o.Names))
	case (o.Outcome == Done) != (o.Error == 0) && o.Outcome != Unknown:
		return fmt.Sprintf("%v with error kind %d", o.Outcome, o.Error)
	case o.Seen == nil:
		return ""
	}
	length := o.Seen.First - o.Offset
	for _, r := range o.Seen.Records {
		length += int64(r.Length)
	}
	if o.Seen.First < o.Offset || length > o.Length {
		return fmt.Sprintf("records from %d, %d bytes, in %d bytes from %d", o.Seen.First, length, o.Length, o.Offset)
	}
	return ""
}

// strict decodes JSON and refuses fields that are not known.
func strict(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return d.Decode(into)
}

// Write writes a history as lines of JSON.
func (h *History) Write(w io.Writer) error {
	out := bufio.NewWriterSize(w, 1<<16)
	e := json.NewEncoder(out)
	if err := e.Encode(header{Version, h.Seed, h.Full}); err != nil {
		return err
	}
	for i := range h.Ops {
		if err := e.Encode(&h.Ops[i]); err != nil {
			return err
		}
	}
	return out.Flush()
}

// Read reads what Write wrote. It refuses, with Invalid or TooLarge, what is not a history or
// is beyond the limits; the error names the line.
func Read(r io.Reader, limits Limits) (*History, error) {
	limits.withDefaults()
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 1<<16), lineMax)
	h := &History{}
	records, number := 0, 1
	for ; lines.Scan(); number++ {
		where := fmt.Sprintf("line %d", number)
		if number == 1 {
			var first header
			if err := strict(lines.Bytes(), &first); err != nil {
				return nil, quarry.Errorf("history", quarry.Invalid, where, "it is no history: %w", err)
			}
			if first.Version != Version {
				return nil, quarry.Errorf("history", quarry.Invalid, where, "it has version %d, this program reads %d", first.Version, Version)
			}
			h.Seed, h.Full = first.Seed, first.Full
			continue
		}
		var op Op
		if err := json.Unmarshal(lines.Bytes(), &op); err != nil {
			return nil, quarry.Errorf("history", quarry.Invalid, where, "%w", err)
		}
		if op.Seen != nil {
			records += len(op.Seen.Records)
		}
		if len(h.Ops) >= limits.Ops || records > limits.Records {
			return nil, quarry.Errorf("history", quarry.TooLarge, where, "it has more than %d operations or %d records read", limits.Ops, limits.Records)
		}
		if n := len(h.Ops); n > 0 && op.Call < h.Ops[n-1].Call {
			return nil, quarry.Errorf("history", quarry.Invalid, where, "the operations are not in the order of their calls")
		}
		h.Ops = append(h.Ops, op)
	}
	switch err := lines.Err(); {
	case err == bufio.ErrTooLong:
		return nil, quarry.Errorf("history", quarry.TooLarge, "", "a line has more than %d bytes", lineMax)
	case err != nil:
		return nil, quarry.Wrap("history", "", err)
	case number == 1:
		return nil, quarry.Errorf("history", quarry.Invalid, "", "it is empty")
	}
	return h, nil
}
