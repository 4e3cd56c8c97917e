package root

import (
	"errors"
	"fmt"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/meta/move"
	"github.com/quarryfs/quarry/wire"
)

// Kind is the number of a verb in the log; never changed or used again.
type Kind uint8

// The kinds of commands.
const (
	KindInit         Kind = 1
	KindRegister     Kind = 2
	KindConfirm      Kind = 3
	KindForgetServer Kind = 4
	KindAddMaster    Kind = 5
	KindRemoveMaster Kind = 6
	KindAddKey       Kind = 7
	KindRetireKey    Kind = 8
	KindRaiseLevel   Kind = 9
	KindAddShard     Kind = 10
	KindBeginMove    Kind = 11
	KindCancelMove   Kind = 12
	KindEndMove      Kind = 13
	KindSetBalancer  Kind = 14
	KindTakeOrder    Kind = 20
	KindEndOrder     Kind = 21
	KindKeepTrash    Kind = 30
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

// verbs is the table of all kinds; it is never changed.
var verbs = [...]struct {
	name string
	make func() Body
}{
	KindInit:         {"init", func() Body { return new(Init) }},
	KindRegister:     {"register", func() Body { return new(Register) }},
	KindConfirm:      {"confirm", func() Body { return new(Confirm) }},
	KindForgetServer: {"forget server", func() Body { return new(ForgetServer) }},
	KindAddMaster:    {"add master", func() Body { return new(AddMaster) }},
	KindRemoveMaster: {"remove master", func() Body { return new(RemoveMaster) }},
	KindAddKey:       {"add key", func() Body { return new(AddKey) }},
	KindRetireKey:    {"retire key", func() Body { return new(RetireKey) }},
	KindRaiseLevel:   {"raise level", func() Body { return new(RaiseLevel) }},
	KindAddShard:     {"add shard", func() Body { return new(AddShard) }},
	KindBeginMove:    {"begin move", func() Body { return new(BeginMove) }},
	KindCancelMove:   {"cancel move", func() Body { return new(CancelMove) }},
	KindEndMove:      {"end move", func() Body { return new(EndMove) }},
	KindSetBalancer:  {"set balancer", func() Body { return new(SetBalancer) }},
	KindTakeOrder:    {"take order", func() Body { return new(TakeOrder) }},
	KindEndOrder:     {"end order", func() Body { return new(EndOrder) }},
	KindKeepTrash:    {"keep trash", func() Body { return new(KeepTrash) }},
}

// Command is one entry of the root group's log.
type Command struct {
	WallNS int64 // wall-clock nanoseconds since 1970 at the leader; stored to be shown only
	Body   Body
}

func commandFields(w *wire.Walk, c *Command) {
	var kind Kind
	if c.Body != nil {
		kind = c.Body.kind()
	}
	wire.Uint(w, 1, &kind)
	wire.Uint(w, 3, &c.WallNS)
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

// Append appends the command's encoding to dst. TooLarge: a field is beyond its limit.
func (c *Command) Append(dst []byte) ([]byte, error) { return wire.Append(dst, c, commandFields) }

// Result is what a command's proposer gets. Each command says which fields it fills in.
type Result struct {
	Err         error // nil, or a *quarry.Error
	Server      quarry.ServerID
	Incarnation quarry.Incarnation
	SameBoot    bool            // the server's last process was of the same boot of its host
	Absent      []quarry.DiskID // disks of the server that it does not report
	Node        quarry.MasterNode
	Holder      meta.TxID // the transaction that moves a directory
	Move        move.ID   // a move of slots
}

func resultFields(w *wire.Walk, r *Result) {
	wire.Error(w, 1, &r.Err)
	wire.Uint(w, 2, &r.Server)
	wire.Uint(w, 3, &r.Incarnation)
	wire.Bool(w, 4, &r.SameBoot)
	wire.Fixed16s(w, 5, &r.Absent, disksMax)
	wire.Message(w, 6, &r.Node, masterFields)
	wire.Uint(w, 20, &r.Holder)
	wire.Uint(w, 21, &r.Move)
}

// Append appends the result's encoding to dst.
func (r *Result) Append(dst []byte) []byte { return wire.Marshal(dst, r, resultFields) }

// DecodeResult reads an encoded result.
func DecodeResult(src []byte) (*Result, error) {
	r := new(Result)
	if err := wire.Unmarshal(src, r, resultFields); err != nil {
		return nil, err
	}
	return r, nil
}

// Apply applies one command to the state and returns its encoded [Result]. A command that
// cannot be carried out gives a result that says so. A panic means that the node must stop, as
// with [meta.Machine.Apply].
func Apply(kv meta.KV, command []byte) []byte {
	var r Result
	var c Command
	if err := wire.Unmarshal(command, &c, commandFields); err != nil {
		panic(quarry.Errorf("apply", quarry.Unsupported, "", "the root group's log has a command that this release, of feature level %d, cannot read (%w): start a later release on this folder", quarry.FeatureLevel, err))
	}
	t := &tx{state: state{view: kv}, kv: kv, wallNS: c.WallNS}
	t.header = t.loadHeader()
	if err := c.Body.apply(t, &r); err != nil {
		r.Err = named(verbs[c.Body.kind()].name, err)
		return r.Append(nil)
	}
	put(t, headerKey(), &t.header, headerFields)
	return r.Append(nil)
}

// named puts the command's name before its error.
func named(op string, err error) error {
	e := &quarry.Error{Kind: quarry.Internal, Err: err}
	errors.As(err, &e)
	return &quarry.Error{Op: op, Kind: e.Kind, Subject: e.Subject, Err: e.Err}
}

// refuse returns the error of a command that cannot be done; see named.
func refuse(kind quarry.Kind, format string, args ...any) error {
	return &quarry.Error{Kind: kind, Err: fmt.Errorf(format, args...)}
}

// errNotMade refuses a command for a cluster that is not made yet.
var errNotMade = &quarry.Error{Kind: quarry.Unavailable, Err: errors.New("the cluster is not made yet")}
