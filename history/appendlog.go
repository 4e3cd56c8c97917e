package history

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/crc32c"
)

// The rules of an append log.
const (
	ruleBytes    = "only what was appended is in the log"
	ruleOnce     = "a record is in the log once"
	ruleFailed   = "a record that was surely not appended is not in the log"
	ruleOffset   = "an acknowledged record is at its offset"
	ruleAgree    = "all readers see the same bytes"
	ruleOrder    = "records stand in real-time order"
	ruleSequence = "acknowledged records of an appender stand in the order of its worker's calls"
	ruleFresh    = "what was acknowledged or seen before is inside"
	ruleFuture   = "a record is not seen before it is appended"
	ruleWhole    = "a log ends where a record ends"
)

// checkLog judges the operations on one log, in the order of their calls. It takes time and
// memory in proportion to them and to the records that were read, apart from sorting.
//
// What the log has is put together from what all readers saw: they must agree. All else is
// then compared with it.
func checkLog(log string, ops []Op, _ effort) (v *Violation, inconclusive string) {
	c := newLogCheck(log, ops)
	for _, rule := range logRules {
		if v := rule(c); v != nil {
			return v, ""
		}
	}
	return nil, c.missing
}

// logRules check the rules, in an order in which each may build on those before it.
var logRules = []func(*logCheck) *Violation{
	(*logCheck).index, (*logCheck).assemble, (*logCheck).acknowledged, (*logCheck).placed,
	(*logCheck).cuts, (*logCheck).order, (*logCheck).sequence, (*logCheck).lengths,
}

func newLogCheck(log string, ops []Op) *logCheck {
	return &logCheck{log: log, ops: ops, appends: make(map[recordID]*Op)}
}

// recordID names a record.
type recordID struct {
	worker   int32
	sequence uint32
}

func (r Record) id() recordID { return recordID{r.Worker, r.Sequence} }

func (id recordID) String() string {
	return fmt.Sprintf("record %d of worker %d", id.sequence, id.worker)
}

// logCheck is the check of one log.
type logCheck struct {
	log     string
	ops     []Op
	appends map[recordID]*Op // by what they append
	reads   []*Op            // that saw bytes, by the first record
	content []inLog          // what the log has, in order, from 0 on without a hole
	length  int64            // bytes of content
	missing string           // why the check cannot be complete
}

// inLog is a record that was read.
type inLog struct {
	Record
	offset int64
	read   *Op // who saw it
	by     *Op // who appended it
}

// violation returns a violation at an offset of the log.
func (c *logCheck) violation(rule string, at int64, ops []*Op, format string, args ...any) *Violation {
	v := &Violation{Checker: "append log", Rule: rule, Subject: c.log, Text: fmt.Sprintf(format, args...)}
	slices.SortStableFunc(ops, func(a, b *Op) int { return cmp.Compare(a.Call, b.Call) })
	for _, op := range slices.Compact(ops) {
		v.Ops = append(v.Ops, trimmed(*op, at))
	}
	return v
}

// shownMax is how many records of a read a violation shows on each side of where it is.
const shownMax = 8

// trimmed returns a read with the records around an offset only, as if it had asked for no
// more; any other operation as it is.
func trimmed(op Op, at int64) Op {
	if op.Seen == nil || len(op.Seen.Records) <= 2*shownMax {
		return op
	}
	place, offset := 0, op.Seen.First
	for place < len(op.Seen.Records)-1 && offset+int64(op.Seen.Records[place].Length) <= at {
		offset += int64(op.Seen.Records[place].Length)
		place++
	}
	from, to := max(0, place-shownMax), min(len(op.Seen.Records), place+shownMax)
	s, end := *op.Seen, op.End()
	for _, r := range s.Records[:from] {
		s.First += int64(r.Length)
	}
	if from > 0 {
		op.Offset, s.HeadCRC = s.First, 0
	}
	if to < len(s.Records) {
		end, s.TailCRC, op.ToEnd = s.First, 0, false
		for _, r := range s.Records[from:to] {
			end += int64(r.Length)
		}
	}
	s.Records = slices.Clone(s.Records[from:to])
	op.Length, op.Seen = end-op.Offset, &s
	return op
}

// index finds the appends, and the reads that saw something.
func (c *logCheck) index() *Violation {
	for i := range c.ops {
		op := &c.ops[i]
		switch {
		case op.Bad != "":
			return c.violation(ruleBytes, op.End(), []*Op{op}, "%s", op.Bad)
		case op.Kind == KindAppend:
			c.appends[recordID{op.Worker, op.Sequence}] = op
		case op.Seen != nil && op.Outcome == Done && op.Length > 0:
			c.reads = append(c.reads, op)
		}
	}
	slices.SortStableFunc(c.reads, func(a, b *Op) int { return cmp.Compare(a.Seen.First, b.Seen.First) })
	return nil
}

// assemble puts together what the log has.
func (c *logCheck) assemble() *Violation {
	for _, read := range c.reads {
		if len(read.Seen.Records) == 0 {
			continue
		}
		if read.Seen.First > c.length {
			c.missing = fmt.Sprintf("nobody read what stands at %d", c.length)
			break
		}
		at, place := read.Seen.First, 0
		if at < c.length || len(c.content) > 0 {
			place, _ = c.find(at)
		}
		for _, r := range read.Seen.Records {
			if at < c.length { // another reader was here
				if place >= len(c.content) || c.content[place].offset != at || c.content[place].Record != r {
					return c.disagree(read, at, r, place)
				}
			} else {
				c.content = append(c.content, inLog{r, at, read, nil})
				c.length = at + int64(r.Length)
			}
			at += int64(r.Length)
			place++
		}
	}
	return nil
}

// find returns the place in content of the record that begins at offset; if there is none, of
// the first one behind it.
func (c *logCheck) find(offset int64) (int, bool) {
	return slices.BinarySearchFunc(c.content, offset, func(r inLog, offset int64) int { return cmp.Compare(r.offset, offset) })
}

// covers returns the record that has the byte at offset, or nil.
func (c *logCheck) covers(offset int64) *inLog {
	place, exact := c.find(offset)
	if !exact {
		place--
	}
	if place < 0 || place >= len(c.content) || offset >= c.length {
		return nil
	}
	return &c.content[place]
}

func (c *logCheck) disagree(read *Op, at int64, r Record, place int) *Violation {
	other := c.covers(at)
	if place < len(c.content) && c.content[place].offset == at {
		other = &c.content[place]
	}
	if other == nil {
		other = &c.content[len(c.content)-1]
	}
	return c.violation(ruleAgree, at, []*Op{read, other.read},
		"one reader saw %v (%d bytes) at %d, another one %v (%d bytes) at %d", r.id(), r.Length, at, other.id(), other.Length, other.offset)
}

// acknowledged checks that every acknowledged record is where it was said to be.
func (c *logCheck) acknowledged() *Violation {
	for i := range c.ops {
		op := &c.ops[i]
		if op.Kind != KindAppend || op.Outcome != Done {
			continue
		}
		if op.End() > c.length {
			if c.missing == "" {
				c.missing = fmt.Sprintf("an acknowledged record ends at %d, nobody read beyond %d", op.End(), c.length)
			}
			continue
		}
		want := Record{op.Worker, op.Sequence, uint32(op.Length)}
		if place, ok := c.find(op.Offset); !ok || c.content[place].Record != want {
			found := c.covers(op.Offset)
			return c.violation(ruleOffset, op.Offset, []*Op{op, found.read},
				"%v was acknowledged at %d; there is %v (at %d) instead", want.id(), op.Offset, found.id(), found.offset)
		}
	}
	return nil
}

// placed checks every record that was read: somebody appended it, and it is there once.
func (c *logCheck) placed() *Violation {
	places := make(map[recordID]int, len(c.content))
	for i := range c.content {
		r := &c.content[i]
		r.by = c.appends[r.id()]
		first, twice := places[r.id()]
		places[r.id()] = i
		switch {
		case r.by == nil || r.by.Length != int64(r.Length):
			return c.violation(ruleBytes, r.offset, []*Op{r.read}, "%v (%d bytes) is at %d; nobody appended it", r.id(), r.Length, r.offset)
		case r.by.Outcome == Failed:
			return c.violation(ruleFailed, r.offset, []*Op{r.by, r.read}, "%v is at %d; its append failed: %v", r.id(), r.offset, r.by.Error)
		case twice:
			return c.violation(ruleOnce, r.offset, []*Op{r.by, c.content[first].read, r.read}, "%v is at %d and at %d", r.id(), c.content[first].offset, r.offset)
		}
	}
	for _, read := range c.reads { // of all readers, not only of those that the content is from
		at := read.Seen.First
		for _, r := range read.Seen.Records {
			if by := c.appends[r.id()]; by != nil && read.precedes(by) {
				return c.violation(ruleFuture, at, []*Op{read, by}, "%v was seen at %d before its append was called", r.id(), at)
			}
			at += int64(r.Length)
		}
	}
	return nil
}

// cuts checks the bytes of records that reads have cut, and that a read that met the end did
// not cut one there.
func (c *logCheck) cuts() *Violation {
	for _, read := range c.reads {
		s := read.Seen
		end := s.First
		for _, r := range s.Records {
			end += int64(r.Length)
		}
		if read.ToEnd && end < read.End() {
			return c.violation(ruleWhole, end, []*Op{read}, "a reader met the end at %d, within a record that begins at %d", read.End(), end)
		}
		for _, cut := range []struct {
			from, to int64
			crc      uint32
		}{{read.Offset, s.First, s.HeadCRC}, {end, read.End(), s.TailCRC}} {
			if cut.from >= cut.to || cut.to > c.length {
				continue
			}
			if crc32c.Checksum(c.bytes(cut.from, cut.to)) != cut.crc {
				r := c.covers(cut.from)
				return c.violation(ruleAgree, cut.from, []*Op{read, r.read}, "the bytes from %d to %d are not those of %v, which is at %d", cut.from, cut.to, r.id(), r.offset)
			}
		}
	}
	return nil
}

// bytes returns what the content says of a range inside it.
func (c *logCheck) bytes(from, to int64) []byte {
	var out []byte
	place, exact := c.find(from)
	if !exact {
		place--
	}
	for ; from < to; place++ {
		r := &c.content[place]
		b := RecordBytes(c.log, r.Record)[from-r.offset:]
		b = b[:min(int64(len(b)), to-from)]
		out = append(out, b...)
		from += int64(len(b))
	}
	return out
}

// order checks that no record stands before one whose append was over when its own was called.
func (c *logCheck) order() *Violation {
	var first *inLog // of all records behind the present one, the one that was over first
	for i := len(c.content) - 1; i >= 0; i-- {
		r := &c.content[i]
		if first != nil && first.by.precedes(r.by) {
			return c.violation(ruleOrder, r.offset, []*Op{first.by, r.by},
				"%v is at %d, before %v at %d, which was acknowledged before the other was called", r.id(), r.offset, first.id(), first.offset)
		}
		if first == nil || r.by.over() < first.by.over() {
			first = r
		}
	}
	return nil
}

// sequence checks that a worker's acknowledged records stand as it called them, those that
// were on their way at the same time too. One whose outcome is unknown may come later, and so
// may one that was on its way when its appender was closed: nothing is promised of its place
// among those of the next appender.
func (c *logCheck) sequence() *Violation {
	type appender struct {
		worker int32
		number uint32
	}
	last := map[appender]*inLog{}
	for i := range c.content {
		r := &c.content[i]
		if r.by.Outcome != Done {
			continue
		}
		key := appender{r.Worker, r.by.Appender}
		if before := last[key]; before != nil && before.Sequence > r.Sequence {
			return c.violation(ruleSequence, r.offset, []*Op{before.by, r.by}, "%v is at %d, %v at %d", before.id(), before.offset, r.id(), r.offset)
		}
		last[key] = r
	}
	return nil
}

// lengths checks that whoever asked for the end was told at least what anybody knew before,
// not more than was being appended, and the end of a record.
func (c *logCheck) lengths() *Violation {
	type known struct {
		at  clock.Instant
		end int64
		op  *Op
	}
	var told []known // what was known, by when
	var asked []*Op  // who asked for the end, by call
	for i := range c.ops {
		op := &c.ops[i]
		if op.Outcome != Done {
			continue
		}
		if op.Kind != KindRead && op.Kind != KindTail || op.Length > 0 { // who sees nothing knows nothing
			told = append(told, known{op.Return, op.End(), op})
		}
		if op.Kind == KindStat || op.Kind == KindRead && op.ToEnd {
			asked = append(asked, op)
		}
	}
	slices.SortStableFunc(told, func(a, b known) int { return cmp.Compare(a.at, b.at) })
	var most *Op
	for _, op := range asked {
		for ; len(told) > 0 && told[0].at < op.Call; told = told[1:] {
			if most == nil || told[0].end > most.End() {
				most = told[0].op
			}
		}
		if most != nil && op.End() < most.End() {
			return c.violation(ruleFresh, op.End(), []*Op{most, op}, "%s, when the log was known to reach to %d", ends(op), most.End())
		}
		if v := c.possible(op); v != nil {
			return v
		}
	}
	return nil
}

// possible checks that a log could end where an operation met its end.
func (c *logCheck) possible(op *Op) *Violation {
	end := op.End()
	if end == 0 || end > c.length || op.Kind == KindRead && op.Length == 0 {
		return nil
	}
	last := c.covers(end - 1)
	if last.offset+int64(last.Length) != end {
		return c.violation(ruleWhole, end, []*Op{op, last.read}, "%s, within %v, which begins at %d", ends(op), last.id(), last.offset)
	}
	if op.precedes(last.by) {
		return c.violation(ruleFuture, end, []*Op{op, last.by}, "%s, and so held %v before its append was called", ends(op), last.id())
	}
	return nil
}

// ends says where an operation met the end.
func ends(op *Op) string {
	if op.Kind == KindStat {
		return fmt.Sprintf("stat told the length %d", op.End())
	}
	return fmt.Sprintf("a read that began at %d met the end at %d", op.Offset, op.End())
}
