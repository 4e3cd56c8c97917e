package meta

import (
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// Kind is the number of a verb in the log; never changed or used again.
type Kind uint8

// The kinds of commands.
const (
	KindInit           Kind = 1
	KindOpenSession    Kind = 2
	KindKeepSessions   Kind = 3
	KindCloseSession   Kind = 4
	KindExpireSessions Kind = 5
	KindMake           Kind = 6
	KindLink           Kind = 7
	KindRename         Kind = 8
	KindRemove         Kind = 9
	KindReserveHandles Kind = 10
	KindOpenTail       Kind = 11
	KindOpenOwned      Kind = 12
	KindBeginSeal      Kind = 13
	KindSeal           Kind = 14
	KindHold           Kind = 15
	KindDropReplica    Kind = 16
	KindAddReplica     Kind = 17
	KindServerGone     Kind = 18
	KindSettleItems    Kind = 19
	KindCollect        Kind = 20
	KindPrepare        Kind = 21
	KindFinish         Kind = 22
	KindDecide         Kind = 23
	KindForget         Kind = 24
	KindReopen         Kind = 25
	KindMerge          Kind = 26
	KindBeginLeave     Kind = 30
	KindCloseSlots     Kind = 31
	KindForgetChanges  Kind = 32
	KindRelease        Kind = 33
	KindCancelLeave    Kind = 34
	KindLeaveOver      Kind = 35
	KindCleanSlots     Kind = 36
	KindBeginTake      Kind = 37
	KindTake           Kind = 38
	KindActivate       Kind = 39
	KindCancelTake     Kind = 40
	KindDisown         Kind = 41
	KindUndelete       Kind = 50
	KindSetAttr        Kind = 51
)

// Body is the part of a command that its verb defines: one of this package's types, by
// pointer.
type Body interface {
	kind() Kind
	// fields walks the body's fields, whose numbers begin at 10.
	fields(w *wire.Walk)
	// apply carries the command out and fills in the result. If it returns an error it has
	// changed nothing.
	apply(t *tx, r *Result) error
}

// verb is what the table of verbs says of a kind.
type verb struct {
	name string
	make func() Body
	once bool // done once per session and sequence: the command carries an Op
	// level is the feature level that brought the kind, or the last of the fields that it
	// always has; 0: it was there from the beginning.
	level uint32
}

// verbs is the table of all kinds; it is never changed.
var verbs = [...]verb{
	KindInit:           {"init", func() Body { return new(Init) }, false, 0},
	KindOpenSession:    {"open session", func() Body { return new(OpenSession) }, false, 0},
	KindKeepSessions:   {"keep sessions", func() Body { return new(KeepSessions) }, false, 0},
	KindCloseSession:   {"close session", func() Body { return new(CloseSession) }, false, 0},
	KindExpireSessions: {"expire sessions", func() Body { return new(ExpireSessions) }, false, 0},
	KindMake:           {"make", func() Body { return new(Make) }, true, 0},
	KindLink:           {"link", func() Body { return new(Link) }, true, 0},
	KindRename:         {"rename", func() Body { return new(Rename) }, true, 0},
	KindRemove:         {"remove", func() Body { return new(Remove) }, true, 0},
	KindReserveHandles: {"reserve handles", func() Body { return new(ReserveHandles) }, false, 0},
	KindOpenTail:       {"open tail", func() Body { return new(OpenTail) }, false, 0},
	KindOpenOwned:      {"open chunks", func() Body { return new(OpenOwned) }, true, 0},
	KindBeginSeal:      {"begin seal", func() Body { return new(BeginSeal) }, false, 0},
	KindSeal:           {"seal", func() Body { return new(Seal) }, false, 0},
	KindHold:           {"hold", func() Body { return new(Hold) }, false, 0},
	KindDropReplica:    {"drop replica", func() Body { return new(DropReplica) }, false, 0},
	KindAddReplica:     {"add replica", func() Body { return new(AddReplica) }, false, 0},
	KindServerGone:     {"server gone", func() Body { return new(ServerGone) }, false, 0},
	KindSettleItems:    {"settle items", func() Body { return new(SettleItems) }, false, 0},
	KindCollect:        {"collect", func() Body { return new(Collect) }, false, 0},
	KindPrepare:        {"prepare", func() Body { return new(Prepare) }, false, 0},
	KindFinish:         {"finish", func() Body { return new(Finish) }, false, 0},
	KindDecide:         {"decide", func() Body { return new(Decide) }, false, 0},
	KindForget:         {"forget", func() Body { return new(Forget) }, false, 0},
	KindReopen:         {"reopen", func() Body { return new(Reopen) }, false, 2},
	KindMerge:          {"merge", func() Body { return new(Merge) }, false, 2},
	KindBeginLeave:     {"begin leave", func() Body { return new(BeginLeave) }, false, 2},
	KindCloseSlots:     {"close slots", func() Body { return new(CloseSlots) }, false, 2},
	KindForgetChanges:  {"forget changes", func() Body { return new(ForgetChanges) }, false, 2},
	KindRelease:        {"release", func() Body { return new(Release) }, false, 2},
	KindCancelLeave:    {"cancel leave", func() Body { return new(CancelLeave) }, false, 2},
	KindLeaveOver:      {"leave over", func() Body { return new(LeaveOver) }, false, 2},
	KindCleanSlots:     {"clean slots", func() Body { return new(CleanSlots) }, false, 2},
	KindBeginTake:      {"begin take", func() Body { return new(BeginTake) }, false, 2},
	KindTake:           {"take", func() Body { return new(Take) }, false, 2},
	KindActivate:       {"activate", func() Body { return new(Activate) }, false, 2},
	KindCancelTake:     {"cancel take", func() Body { return new(CancelTake) }, false, 2},
	KindDisown:         {"disown", func() Body { return new(Disown) }, false, 2},
	KindUndelete:       {"undelete", func() Body { return new(Undelete) }, true, 2},
	KindSetAttr:        {"set attributes", func() Body { return new(SetAttr) }, true, 2},
}

// Command is one entry of the shard's log.
type Command struct {
	Time   LogTime   // the last logged time plus what has passed at the leader since
	WallNS int64     // wall-clock nanoseconds since 1970 at the leader; stored to be shown only
	Op     quarry.Op // of Make, Link, Rename, Remove, Undelete, SetAttr and OpenOwned: what makes them happen once
	Body   Body
}

func commandFields(w *wire.Walk, c *Command) {
	var kind Kind
	if c.Body != nil {
		kind = c.Body.kind()
	}
	wire.Uint(w, 1, &kind)
	wire.Uint(w, 2, &c.Time)
	wire.Uint(w, 3, &c.WallNS)
	wire.Uint(w, 4, &c.Op.Session)
	wire.Uint(w, 5, &c.Op.Sequence)
	wire.Uint(w, 6, &c.Op.Oldest)
	if w.Reading() {
		c.Body = nil
		if int(kind) < len(verbs) && verbs[kind].make != nil {
			c.Body = verbs[kind].make()
		}
	}
	if c.Body == nil {
		w.Fail("command kind %d is not known", kind)
		return
	}
	c.Body.fields(w)
}

// Level returns the feature level that every master must speak before the command is proposed.
func (c *Command) Level() uint32 {
	switch b := c.Body.(type) {
	case *Make:
		if b.UID|b.GID != 0 {
			return 2
		}
	case *Link:
		if b.Owner != 0 || b.UID|b.GID != 0 || b.ModifiedNS != 0 {
			return 2
		}
	case *OpenOwned:
		if b.Owner != 0 {
			return 2
		}
	}
	return verbs[c.Body.kind()].level
}

// Append appends the command's encoding to dst. TooLarge: a field is beyond its limit.
func (c *Command) Append(dst []byte) ([]byte, error) { return wire.Append(dst, c, commandFields) }

// DecodeCommand reads an encoded command.
func DecodeCommand(src []byte) (*Command, error) {
	c := new(Command)
	if err := wire.Unmarshal(src, c, commandFields); err != nil {
		return nil, err
	}
	return c, nil
}
