package quarry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// Kind says what sort of failure an [Error] is, whether a retry helps, and where. Kinds
// travel over the wire; their numbers are never changed or used again. A Kind is itself an
// error, so that errors.Is(err, quarry.NotFound) decides.
type Kind uint8

// The kinds of errors. "Retry" says who may simply try again.
const (
	// Internal is a failure that has no kind of its own. No retry.
	Internal Kind = 1
	// NotFound: no such file, directory or chunk. Is fs.ErrNotExist. No retry.
	NotFound Kind = 2
	// Exists: the name is taken. Is fs.ErrExist. No retry.
	Exists Kind = 3
	// NotDir: a part of the path is not a directory. No retry.
	NotDir Kind = 4
	// IsDir: the name is a directory where a file is needed. No retry.
	IsDir Kind = 5
	// NotEmpty: the directory has entries. No retry.
	NotEmpty Kind = 6
	// Invalid: the request breaks a rule that its text names. Is fs.ErrInvalid. No retry.
	Invalid Kind = 7
	// TooLarge: a length is beyond its limit. No retry.
	TooLarge Kind = 8
	// Permission: a capability or key is missing or wrong. Is fs.ErrPermission. No retry.
	Permission Kind = 9
	// StaleVersion: the request's chunk version or incarnation is no longer the one in
	// force. Ask the master for the chunk or layout again.
	StaleVersion Kind = 10
	// NotPrimary: the server is not the chunk's primary in this version. Ask the master.
	NotPrimary Kind = 11
	// Full: the record does not fit in the chunk. Roll, then send it to the next chunk.
	Full Kind = 12
	// NotLeader: this master does not lead the shard. Retry at the leader, which the error
	// may name.
	NotLeader Kind = 13
	// WrongShard: the slot lives on another shard. Fetch the topology again, then retry.
	WrongShard Kind = 14
	// WrongCluster: the other side belongs to another cluster. No retry.
	WrongCluster Kind = 15
	// SessionExpired: the session is not known (any more). The outcome of its unanswered
	// operations cannot be known; open a new one.
	SessionExpired Kind = 16
	// Unknown: the outcome of the operation cannot be known. The caller decides.
	Unknown Kind = 17
	// Corrupt: bytes do not match their checksum. Read another replica.
	Corrupt Kind = 18
	// NoSpace: a disk, or every disk, is full. No retry before space is made.
	NoSpace Kind = 19
	// Busy: a bound on memory or queues is reached. Retry later, here.
	Busy Kind = 20
	// Unavailable: a server cannot be reached or is stopping. Retry later, or elsewhere.
	Unavailable Kind = 21
	// Unsupported: the operation is not offered, at least not by this release. No retry.
	Unsupported Kind = 22
	// Confirm: the server may not answer without the master's word; see [ChunkServer.End].
	Confirm Kind = 23
)

var kindNames = map[Kind]string{
	Internal: "internal error", NotFound: "not found", Exists: "already exists", NotDir: "not a directory",
	IsDir: "is a directory", NotEmpty: "directory not empty", Invalid: "invalid", TooLarge: "too large",
	Permission: "permission denied", StaleVersion: "stale version", NotPrimary: "not the primary", Full: "chunk full",
	NotLeader: "not the leader", WrongShard: "wrong shard", WrongCluster: "wrong cluster",
	SessionExpired: "session expired", Unknown: "outcome unknown", Corrupt: "corrupt", NoSpace: "no space left",
	Busy: "busy", Unavailable: "unavailable", Unsupported: "not supported yet", Confirm: "needs confirmation",
}

// Error returns the kind in words.
func (k Kind) Error() string {
	if s, ok := kindNames[k]; ok {
		return s
	}
	return fmt.Sprintf("error kind %d", uint8(k))
}

// Is makes the kinds that io/fs has a word for equal to that word.
func (k Kind) Is(target error) bool {
	switch target {
	case fs.ErrNotExist:
		return k == NotFound
	case fs.ErrExist:
		return k == Exists
	case fs.ErrInvalid:
		return k == Invalid
	case fs.ErrPermission:
		return k == Permission
	}
	return false
}

// Error is an error that crosses Quarry's interfaces and its network. Decide on its kind
// with errors.Is, never on its text.
type Error struct {
	Op      string // what was being done: "append", "mkdir"
	Kind    Kind
	Subject string // on what: a path, a handle, an address; may be empty
	Err     error  // the cause, may be nil
}

// Errorf returns an Error whose cause is the formatted text.
func Errorf(op string, kind Kind, subject, format string, args ...any) *Error {
	return &Error{Op: op, Kind: kind, Subject: subject, Err: fmt.Errorf(format, args...)}
}

// Wrap adds an operation and a subject to err and keeps its kind; nil stays nil. An error
// that names the operation already gains nothing by a second mention without a subject.
func Wrap(op, subject string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := err.(*Error); ok && subject == "" && e.Op == op {
		return err
	}
	return &Error{Op: op, Kind: KindOf(err), Subject: subject, Err: err}
}

// KindOf returns the kind of err: of the first Error or Kind in its chain, Unavailable for
// an ended context, Internal otherwise, and 0 for nil.
func KindOf(err error) Kind {
	var e *Error
	var k Kind
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return e.Kind
	case errors.As(err, &k):
		return k
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return Unavailable
	}
	return Internal
}

// Error reads "op subject: kind: cause".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Subject != "" {
		if e.Op != "" {
			b.WriteByte(' ')
		}
		b.WriteString(e.Subject)
	}
	var cause *Error
	if !errors.As(e.Err, &cause) || cause.Kind != e.Kind {
		b.WriteString(": ")
		b.WriteString(e.Kind.Error())
	}
	if e.Err != nil && e.Err != error(e.Kind) {
		b.WriteString(": ")
		b.WriteString(e.Err.Error())
	}
	return b.String()
}

// Unwrap returns the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// NotLeaderError is the cause of a NotLeader error that knows where the leader is.
type NotLeaderError struct {
	Leader  NodeID
	Address string // host:port
}

func (e *NotLeaderError) Error() string { return fmt.Sprintf("the leader is at %s", e.Address) }

// WrongShardError is the cause of a WrongShard error of a master that knows a slot map. Who has
// an older map fetches it again; who has the same or a newer one waits: the slot is on its way,
// or the master has yet to hear of it. Slot is the one because of which the request was refused,
// and tells whether it was that of its session or that of what it is about.
type WrongShardError struct {
	Slot Slot
	Map  uint64 // the version of the master's slot map; see [TopologyReply]
}

func (e *WrongShardError) Error() string {
	return fmt.Sprintf("slot %d lives on another shard, by version %d of the slot map", e.Slot, e.Map)
}
