package history

import (
	"fmt"
	"math"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// Kind is what an operation does.
type Kind uint8

// The kinds of operations. The fields of [Op] that each uses are named in brackets; "=" are
// results.
const (
	KindAppend Kind = 1  // a record to a log [Sequence, Length = Offset]
	KindRead   Kind = 2  // of a log [Offset = Length, ToEnd, Seen], a file or a name [Path = Value, Length]
	KindTail   Kind = 3  // bytes of a log that a tail gave [Offset = Length, Seen]
	KindStat   Kind = 4  // of a log [= Length], or a name [Path = Found, Mode, Length: entries of a directory]
	KindPut    Kind = 5  // a whole file [Path, Value, Length]
	KindCreate Kind = 6  // an empty file [Path]
	KindMkdir  Kind = 7  // a directory [Path]
	KindRename Kind = 8  // [Path, To]
	KindRemove Kind = 9  // a file or an empty directory [Path]
	KindList   Kind = 10 // a directory [Path = Names]
	// KindUndelete brings the file with a value back from the trash [Path: its name from then on; Value, Length, KeepNS]
	KindUndelete Kind = 11
	KindChmod    Kind = 12 // of a file or directory [Path, Mode]
)

var kindNames = []string{"", "append", "read", "tail", "stat", "put", "create", "mkdir", "rename", "remove", "list", "undelete", "chmod"}

// String returns the kind's name in texts and files.
func (k Kind) String() string { return nameOf(kindNames, int(k)) }

// MarshalText implements encoding.TextMarshaler.
func (k Kind) MarshalText() ([]byte, error) { return marshal(kindNames, int(k)) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *Kind) UnmarshalText(b []byte) error { return unmarshal(kindNames, b, (*uint8)(k)) }

// mutates reports whether operations of the kind change something.
func (k Kind) mutates() bool {
	switch k {
	case KindAppend, KindPut, KindCreate, KindMkdir, KindRename, KindRemove, KindUndelete, KindChmod:
		return true
	}
	return false
}

// Class is the sort of a subject: which checker judges it.
type Class uint8

// The classes of subjects.
const (
	ClassLog   Class = 1 // a file that grows by records
	ClassFile  Class = 2 // a file that is put, read and removed whole
	ClassNames Class = 3 // a directory and the names below it
	ClassSetup Class = 4 // what a workload makes before it begins; not judged
)

var classNames = []string{"", "log", "file", "names", "setup"}

// String returns the class's name in texts and files.
func (c Class) String() string { return nameOf(classNames, int(c)) }

// MarshalText implements encoding.TextMarshaler.
func (c Class) MarshalText() ([]byte, error) { return marshal(classNames, int(c)) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Class) UnmarshalText(b []byte) error { return unmarshal(classNames, b, (*uint8)(c)) }

// Outcome is what is known of what an operation did.
type Outcome uint8

// The outcomes.
const (
	Done    Outcome = 1 // it was acknowledged
	Failed  Outcome = 2 // it was surely not done; [Op].Error tells why
	Unknown Outcome = 3 // it may take effect at any instant after its call, or never
)

var outcomeNames = []string{"", "done", "failed", "unknown"}

// String returns the outcome's name in texts and files.
func (o Outcome) String() string { return nameOf(outcomeNames, int(o)) }

// MarshalText implements encoding.TextMarshaler.
func (o Outcome) MarshalText() ([]byte, error) { return marshal(outcomeNames, int(o)) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (o *Outcome) UnmarshalText(b []byte) error { return unmarshal(outcomeNames, b, (*uint8)(o)) }

// Found is what a look at a name found.
type Found uint8

// What may be found.
const (
	FoundFile Found = 1
	FoundDir  Found = 2
)

var foundNames = []string{"", "file", "directory"}

// String returns the name in texts and files.
func (f Found) String() string { return nameOf(foundNames, int(f)) }

// MarshalText implements encoding.TextMarshaler.
func (f Found) MarshalText() ([]byte, error) { return marshal(foundNames, int(f)) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (f *Found) UnmarshalText(b []byte) error { return unmarshal(foundNames, b, (*uint8)(f)) }

func nameOf(names []string, i int) string {
	if i > 0 && i < len(names) {
		return names[i]
	}
	return fmt.Sprintf("number %d", i)
}

func marshal(names []string, i int) ([]byte, error) {
	if i <= 0 || i >= len(names) {
		return nil, quarry.Errorf("history", quarry.Invalid, "", "number %d has no name", i)
	}
	return []byte(names[i]), nil
}

func unmarshal(names []string, b []byte, into *uint8) error {
	for i, name := range names {
		if i > 0 && name == string(b) {
			*into = uint8(i)
			return nil
		}
	}
	return quarry.Errorf("history", quarry.Invalid, "", "%.40q is none of %q", b, names[1:])
}

// Open is the return instant of an operation that has not returned.
const Open clock.Instant = math.MaxInt64

// Op is one operation of one worker.
type Op struct {
	Client  int32  `json:"client"` // which of the clients
	Worker  int32  `json:"worker"` // who did it; one number in the whole history
	Kind    Kind   `json:"kind"`
	Class   Class  `json:"class"`
	Subject string `json:"subject"` // path of the log or file; of the directory that a tree is below
	Path    string `json:"path,omitempty"`
	To      string `json:"to,omitempty"` // names: below Subject, as is Path; "" is Subject itself

	Sequence uint32 `json:"sequence,omitempty"` // of a record, among those of its worker
	Appender uint32 `json:"appender,omitempty"` // of a record: which of its worker's appenders it went through
	Value    uint64 `json:"value,omitempty"`    // which bytes a file has; 0: none
	Offset   int64  `json:"offset,omitempty"`
	Length   int64  `json:"length,omitempty"`
	ToEnd    bool   `json:"to_end,omitempty"`  // a read that met the end of the log
	Final    bool   `json:"final,omitempty"`   // done by Settle, when nothing else was under way
	Now      bool   `json:"now,omitempty"`     // a remove after which the file is not in the trash
	KeepNS   int64  `json:"keep_ns,omitempty"` // how long the trash keeps a file at least
	Mode     uint32 `json:"mode,omitempty"`    // that was set or seen; 0: not told

	Call    clock.Instant `json:"call"`   // ns
	Return  clock.Instant `json:"return"` // ns; or Open
	Outcome Outcome       `json:"outcome"`
	Error   quarry.Kind   `json:"error,omitempty"` // 0: none

	Found Found    `json:"found,omitempty"`
	Names []string `json:"names,omitempty"` // ascending; those of directories end with '/'
	Seen  *Seen    `json:"seen,omitempty"`
	// Bad tells what is wrong with the bytes that were read, if they are not what anybody
	// writes; the operation's bytes before it are in Seen.
	Bad string `json:"bad,omitempty"`
}

// Seen are the records that stand in the bytes that a read of a log returned. Bytes before
// First and behind the last record belong to records that the read has cut.
type Seen struct {
	First   int64    `json:"first"` // where in the log the first whole record begins
	Records []Record `json:"records"`
	// HeadCRC and TailCRC are the CRC32C of the cut bytes in front and at the end.
	HeadCRC uint32 `json:"head_crc,omitempty"`
	TailCRC uint32 `json:"tail_crc,omitempty"`
}

// Record names a record and its length, in bytes.
type Record struct {
	Worker   int32
	Sequence uint32
	Length   uint32
}

// over returns the instant after which the operation has no effect any more: Open if its
// outcome is unknown.
func (o *Op) over() clock.Instant {
	if o.Outcome == Unknown {
		return Open
	}
	return o.Return
}

// precedes reports whether an operation was over before another one was called.
func (o *Op) precedes(p *Op) bool { return o.over() < p.Call }

// answered reports whether the cluster did what it was asked, or had a reason in what it
// holds not to.
func (o *Op) answered() bool {
	if o.Outcome == Done {
		return true
	}
	switch o.Error {
	case quarry.NotFound, quarry.Exists, quarry.NotDir, quarry.IsDir, quarry.NotEmpty, quarry.Invalid:
		return o.Outcome == Failed
	}
	return false
}

// End returns the offset behind the last byte that an append wrote or a read saw.
func (o *Op) End() int64 { return o.Offset + o.Length }

// outcomeOf returns what an error says of an operation. A client promises that any error but
// Unknown means that nothing was done; kinds that should not reach a caller at all are not
// trusted to.
func outcomeOf(err error) (Outcome, quarry.Kind) {
	kind := quarry.KindOf(err)
	switch kind {
	case 0:
		return Done, 0
	case quarry.NotFound, quarry.Exists, quarry.NotDir, quarry.IsDir, quarry.NotEmpty, quarry.Invalid,
		quarry.TooLarge, quarry.Permission, quarry.WrongCluster, quarry.NoSpace, quarry.Busy,
		quarry.Unavailable, quarry.Unsupported:
		return Failed, kind
	}
	return Unknown, kind
}

// History is what was recorded, in the order of the calls.
type History struct {
	Seed uint64
	Ops  []Op
	// Full says that the recorder's limits were reached: what came later is missing.
	Full bool
}
