package protocol

import (
	"slices"

	"github.com/quarryfs/quarry"
)

// ForgottenMax bounds the sessions that one replica can be told to forget.
const ForgottenMax = 1 << 16

// Replica is what a server's disk knows of one replica of a chunk, for the protocol. The
// journal of a disk is a row of [Change] values; applying those of a replica in order, to
// the zero value with its handle, gives its state.
type Replica struct {
	Handle     quarry.Handle
	Exists     bool           // false: there is no such replica; the other fields are zero
	Promised   quarry.Version // highest version seen; never falls; requests of lower ones are refused
	LogVersion quarry.Version // the writable version that the bytes belong to
	// SealVersion and SealLength: as of that seal the replica is complete up to there. 0: it
	// was never sealed.
	SealVersion quarry.Version
	SealLength  int64
	Adopted     quarry.Version // last version in which the server took the role of primary
	Mutable     bool           // reads must be validated
	Serving     bool           // false for a copy of a chunk that the master has not added
	Records     Records        // its Length is the replica's durable length
	Forgotten   []quarry.SessionID
}

// DurableLength returns the length in bytes; always the end of a record.
func (r *Replica) DurableLength() int64 { return r.Records.Length() }

// Clone returns a copy that shares nothing with r.
func (r *Replica) Clone() Replica {
	c := *r
	c.Records = r.Records.Clone()
	c.Forgotten = slices.Clone(r.Forgotten)
	return c
}

// ChangeKind says which transition a change is. Kinds stand in journals: their numbers are
// never changed or used again.
type ChangeKind uint8

// The changes of a replica, and which fields of a Change each uses.
const (
	// ChangeCreate begins an empty replica. Version, Mutable.
	ChangeCreate ChangeKind = 1
	// ChangeBatch adds records whose bytes are on the disk. Version, Records.
	ChangeBatch ChangeKind = 2
	// ChangePromise raises Promised. Version.
	ChangePromise ChangeKind = 3
	// ChangeAdopt begins the role of primary. Version.
	ChangeAdopt ChangeKind = 4
	// ChangeSeal cuts to Length. Version, WritableVersion, Length.
	ChangeSeal ChangeKind = 5
	// ChangeCopy replaces whatever there is by a sealed chunk fetched from other servers.
	// Version, WritableVersion, Length, Table, Forgotten, Mutable, Serving.
	ChangeCopy ChangeKind = 6
	// ChangeAdd lets a copy serve. Version, Mutable.
	ChangeAdd ChangeKind = 7
	// ChangeDrop ends the replica, or nothing: one that is lost may never have been durable.
	// Version.
	ChangeDrop ChangeKind = 8
	// ChangeForget drops a session from the records, for ever. Session.
	ChangeForget ChangeKind = 9
	// ChangeReopen begins a further writable version of a sealed replica, at its sealed length.
	// Version, Length.
	ChangeReopen ChangeKind = 10
)

// Change is one atomic transition of a replica's durable state: one journal record. The
// checksums of a batch's bytes belong into the same journal record; they are not the
// protocol's.
type Change struct {
	Kind            ChangeKind
	Version         quarry.Version
	WritableVersion quarry.Version
	Length          int64
	Position        int64 // of a seal; only passed on to the disk
	Records         []Record
	Table           *Records // not changed once it is here
	Forgotten       []quarry.SessionID
	Session         quarry.SessionID
	Mutable         bool
	Serving         bool
}

// Apply makes a change. It returns an Invalid error, and changes nothing that matters, if
// the change cannot follow the present state: the journal it comes from is broken.
func (r *Replica) Apply(c *Change) error {
	if !r.Exists && c.Kind != ChangeCreate && c.Kind != ChangeCopy && c.Kind != ChangeDrop {
		return r.refuse(c, "there is no replica")
	}
	switch c.Kind {
	case ChangeCreate:
		if r.Exists {
			return r.refuse(c, "the replica exists")
		}
		*r = Replica{Handle: r.Handle, Exists: true, Promised: c.Version, LogVersion: c.Version, Mutable: c.Mutable, Serving: true}
	case ChangeBatch:
		if c.Version != r.LogVersion {
			return r.refuse(c, "the batch is of another version")
		}
		for _, rec := range c.Records {
			if err := r.Records.Append(rec); err != nil {
				return r.refuse(c, err.Error())
			}
		}
	case ChangePromise:
		r.Promised = max(r.Promised, c.Version)
	case ChangeAdopt:
		r.Adopted = max(r.Adopted, c.Version)
	case ChangeSeal:
		return r.seal(c)
	case ChangeCopy:
		return r.copyOver(c)
	case ChangeAdd:
		r.Serving, r.Mutable = true, r.Mutable || c.Mutable
	case ChangeDrop:
		*r = Replica{Handle: r.Handle}
	case ChangeForget:
		r.forget(c.Session)
	case ChangeReopen:
		return r.reopen(c)
	default:
		return r.refuse(c, "unknown kind")
	}
	return nil
}

func (r *Replica) seal(c *Change) error {
	if c.Length > r.DurableLength() || !r.Records.Boundary(c.Length) {
		return r.refuse(c, "the replica does not hold this length")
	}
	r.Records.Cut(c.Length)
	r.Promised = max(r.Promised, c.Version)
	r.LogVersion, r.SealVersion, r.SealLength = c.WritableVersion, c.Version, c.Length
	return nil
}

func (r *Replica) reopen(c *Change) error {
	fits := r.SealVersion > r.LogVersion && c.Version > r.SealVersion && c.Length == r.SealLength
	if !fits && !off(ReopenWithoutBytes) && !off(ReopenOldVersion) {
		return r.refuse(c, "the replica is not sealed at this length below this version")
	}
	// A copy that was not added yet serves from here on: the log names it as a member.
	r.Promised, r.LogVersion, r.Serving = max(r.Promised, c.Version), c.Version, true
	return nil
}

func (r *Replica) copyOver(c *Change) error {
	if c.Table == nil || c.Table.Length() != c.Length {
		return r.refuse(c, "the records do not cover the bytes")
	}
	*r = Replica{
		Handle: r.Handle, Exists: true, Promised: max(r.Promised, c.Version), LogVersion: c.WritableVersion,
		SealVersion: c.Version, SealLength: c.Length, Adopted: r.Adopted, Mutable: c.Mutable, Serving: c.Serving,
		Records: c.Table.Clone(), Forgotten: slices.Clone(c.Forgotten),
	}
	return nil
}

func (r *Replica) forget(session quarry.SessionID) {
	r.Records.Forget(session)
	if !slices.Contains(r.Forgotten, session) {
		r.Forgotten = append(r.Forgotten, session)
	}
}

func (r *Replica) refuse(c *Change, why string) error {
	return quarry.Errorf("replay", quarry.Invalid, r.Handle.String(), "change of kind %d for version %d: %s", c.Kind, c.Version, why)
}
