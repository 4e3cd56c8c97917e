package rpc

import (
	"context"
	"errors"
	"strings"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// errorMessage is a quarry.Error on its way.
type errorMessage struct {
	Kind    quarry.Kind
	Op      string
	Subject string
	Text    string // of a cause that is no quarry.Error
	// Where the leader is, if the error is NotLeader and it is known.
	Leader  quarry.NodeID
	Address string
	Cause   *errorMessage
	// The slot and the slot map's version of a WrongShard error, if the map is known.
	Slot quarry.Slot
	Map  uint64
}

// errorTextMax bounds each text of an error, errorDepthMax the causes of causes; what is
// beyond is cut.
const (
	errorTextMax  = 4 << 10
	errorDepthMax = 4
	errorBodyMax  = errorDepthMax * (4*errorTextMax + 64)
)

func errorFields(w *wire.Walk, m *errorMessage) {
	wire.Uint(w, 1, &m.Kind)
	wire.String(w, 2, &m.Op, errorTextMax)
	wire.String(w, 3, &m.Subject, errorTextMax)
	wire.String(w, 4, &m.Text, errorTextMax)
	wire.Uint(w, 5, &m.Leader)
	wire.String(w, 6, &m.Address, errorTextMax)
	wire.Optional(w, 7, &m.Cause, errorFields)
	wire.Uint(w, 8, &m.Slot)
	wire.Uint(w, 9, &m.Map)
}

// encodeError makes the message of an error that a handler returned.
func encodeError(err error) *errorMessage { return encodeErrorTo(err, errorDepthMax) }

func encodeErrorTo(err error, depth int) *errorMessage {
	m := &errorMessage{Kind: quarry.KindOf(err)}
	var e *quarry.Error
	if !errors.As(err, &e) {
		if err != error(m.Kind) {
			m.Text = cut(err.Error())
		}
		return m
	}
	m.Op, m.Subject = cut(e.Op), cut(e.Subject)
	var leader *quarry.NotLeaderError
	var shard *quarry.WrongShardError
	switch cause := e.Err.(type) {
	case nil:
	case quarry.Kind:
		if cause != m.Kind {
			m.Text = cut(cause.Error())
		}
	case *quarry.Error:
		if depth > 1 {
			m.Cause = encodeErrorTo(cause, depth-1)
		} else {
			m.Text = cut(cause.Error())
		}
	default:
		switch {
		case errors.As(cause, &leader):
			m.Leader, m.Address = leader.Leader, cut(leader.Address)
		case errors.As(cause, &shard):
			m.Slot, m.Map = shard.Slot, shard.Map
		default:
			m.Text = cut(cause.Error())
		}
	}
	return m
}

// cut makes a text fit into an error message.
func cut(s string) string {
	if len(s) > errorTextMax {
		return strings.ToValidUTF8(s[:errorTextMax-3], "") + "…"
	}
	return s
}

// decodeError returns the error in the body of an error frame.
func decodeError(body []byte) error {
	var m errorMessage
	if err := wire.Unmarshal(body, &m, errorFields); err != nil {
		return err
	}
	return m.error()
}

func (m *errorMessage) error() error {
	e := &quarry.Error{Op: m.Op, Kind: m.Kind, Subject: m.Subject}
	if e.Kind == 0 {
		e.Kind = quarry.Internal
	}
	switch {
	case m.Cause != nil:
		e.Err = m.Cause.error()
	case m.Leader != 0 || m.Address != "":
		e.Err = &quarry.NotLeaderError{Leader: m.Leader, Address: m.Address}
	case m.Map != 0:
		e.Err = &quarry.WrongShardError{Slot: m.Slot, Map: m.Map}
	case m.Text != "":
		e.Err = errors.New(m.Text)
	}
	return e
}

// unavailable is the error for a peer that cannot be reached or was lost.
func unavailable(address string, err error) error {
	var e *quarry.Error
	if errors.As(err, &e) && e.Kind != quarry.Internal {
		return err // a refusal that has its own kind, such as WrongCluster
	}
	return &quarry.Error{Op: "rpc", Kind: quarry.Unavailable, Subject: address, Err: err}
}

// ended is the error of a call whose context has ended.
func ended(ctx context.Context, address string) error {
	return &quarry.Error{Op: "rpc", Kind: quarry.Unavailable, Subject: address, Err: context.Cause(ctx)}
}
