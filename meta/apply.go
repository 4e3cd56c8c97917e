package meta

import (
	"errors"
	"fmt"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// WindowOps is the most operations of a session that may be unsettled: a sequence must be
// less than the oldest unsettled one plus WindowOps.
const WindowOps = 1024

// Machine applies commands to a shard's state. The zero Machine is ready. One goroutine
// calls its methods; the read functions of the package may run at the same time on a View
// of their own.
type Machine struct {
	header  header // as the state has it
	loaded  bool
	tx      tx      // of the command that is being applied
	command Command // the same, decoded
}

// Installed tells the machine that the state was replaced by another one.
func (m *Machine) Installed() { m.loaded = false }

// Apply applies one command to the state and returns its encoded [Result]. It depends on
// nothing but the state and the command. A command that cannot be carried out gives a result
// that says so.
//
// A panic means that the node must stop: with an [*quarry.Error] of kind Unsupported if the
// command cannot be read, because it is of a later release, and the other nodes come to
// another state by it than this one could; otherwise the state itself cannot be read.
func (m *Machine) Apply(kv KV, command []byte) []byte {
	if err := wire.Unmarshal(command, &m.command, commandFields); err != nil {
		panic(quarry.Errorf("apply", quarry.Unsupported, "", "the log has a command that this release, of feature level %d, cannot read (%w): start a later release on this folder", quarry.FeatureLevel, err))
	}
	out := m.apply(kv, &m.command)
	m.tx.view, m.tx.kv, m.command.Body = nil, nil, nil
	return out
}

func (m *Machine) apply(kv KV, c *Command) []byte {
	t := &m.tx
	t.view, t.kv, t.wallNS, t.op = kv, kv, c.WallNS, c.Op
	if !m.loaded {
		m.header, m.loaded = t.loadHeader(), true
	}
	t.header = &m.header
	if off(WallClockTime) {
		c.Time = LogTime(c.WallNS / 1e6)
	}
	if c.Time > m.header.Time || off(TimeMovesBack) {
		m.header.Time = c.Time
	}
	var out []byte
	if v := &verbs[c.Body.kind()]; v.once {
		out = t.once(c, v)
	} else {
		out = t.do(c, v)
	}
	t.saveHeader()
	return out
}

// resultBytes is room for most results.
const resultBytes = 128

// do carries the command out and returns the encoded result.
func (t *tx) do(c *Command, v *verb) []byte {
	var r Result
	if err := c.Body.apply(t, &r); err != nil {
		r.Err = named(v.name, "", err)
	}
	return r.Append(make([]byte, 0, resultBytes))
}

// once carries out a command that belongs to a session, or answers with the result that it
// had before.
func (t *tx) once(c *Command, v *verb) []byte {
	place, out, done, err := t.recall(&c.Op)
	if err != nil {
		r := Result{Err: named(v.name, "", err)}
		return r.Append(nil)
	}
	if done {
		return out
	}
	var r Result
	if err := c.Body.apply(t, &r); err != nil {
		r.Err = named(v.name, "", err)
	}
	out = r.Append(make([]byte, 0, resultBytes))
	if !retryable(r.Err) {
		t.setResult(&c.Op, place, out)
	}
	return out
}

// retryable reports whether the same operation may be sent again to be done after all, so
// that the error must not be its result for ever. WrongShard is not retryable: who learns that
// what it wants to change lives elsewhere does it there, as another operation; if the slot came
// back, a late copy of the request would do it a second time.
func retryable(err error) bool {
	if err == nil {
		return false
	}
	switch quarry.KindOf(err) {
	case quarry.Busy, quarry.Unavailable, quarry.NoSpace:
		return true
	}
	return false
}

// named puts the operation's name before the error of a command or read, and a subject if it
// has none.
func named(op, subject string, err error) error {
	if err == nil {
		return nil
	}
	var e *quarry.Error
	if !errors.As(err, &e) {
		return quarry.Wrap(op, subject, err)
	}
	if e.Subject != "" {
		subject = e.Subject
	}
	return &quarry.Error{Op: op, Kind: e.Kind, Subject: subject, Err: e.Err}
}

// refuse returns the error of a command or read that cannot be done; see named.
func refuse(kind quarry.Kind, subject, format string, args ...any) error {
	return &quarry.Error{Kind: kind, Subject: subject, Err: fmt.Errorf(format, args...)}
}

// tx is the state while one command is applied.
type tx struct {
	state
	kv     KV
	wallNS int64
	op     quarry.Op
	value  []byte // room for the value that is written
}

// now returns the log time, which is never 0 nor neverSeen.
func (t *tx) now() LogTime { return max(t.header.Time, neverSeen+1) }

func (t *tx) saveHeader() {
	put(t, headerKey(t.key[:0]), t.header, headerFields)
}

// put writes a record. The key may use the room of t.key.
func put[M any](t *tx, key []byte, m *M, fields func(*wire.Walk, *M)) {
	t.value = wire.Marshal(t.value[:0], m, fields)
	t.write(key, t.value)
}

// set writes an entry of an index.
func (t *tx) set(key []byte) {
	t.write(key, nil)
}

func (t *tx) write(key, value []byte) {
	t.key = key
	t.kv.Set(key, value)
	t.note(key)
}

func (t *tx) delete(key []byte) {
	t.key = key
	t.kv.Delete(key)
	t.note(key)
}

// checkSlot returns WrongShard unless the shard owns the slot.
func (s *state) checkSlot(slot quarry.Slot) error {
	if !s.header.owns(slot) {
		return wrongShard(slot)
	}
	return nil
}

func wrongShard(s quarry.Slot) error {
	return refuse(quarry.WrongShard, fmt.Sprintf(slotSubject, s), "it lives on another shard")
}

// slotSubject is the subject of a WrongShard error; results carry no more of it.
const slotSubject = "slot %d"

// RefusedSlot returns the slot because of which a command or a read was refused with WrongShard.
func RefusedSlot(err error) (s quarry.Slot, ok bool) {
	var e *quarry.Error
	for ; errors.As(err, &e) && e.Kind == quarry.WrongShard; err = e.Err {
		if _, bad := fmt.Sscanf(e.Subject, slotSubject, &s); bad == nil {
			return s, true
		}
	}
	return 0, false
}
