package protocol

import (
	"slices"

	"github.com/quarryfs/quarry"
)

// Fate tells what became of records of a session. Only a replica that is durably complete
// at exactly the request's seal knows: a shorter one, or one complete for an older seal of a
// chunk that was opened again, would say "absent" of a record that is there.
func (m *Member) Fate(req *quarry.FateRequest) (*quarry.FateReply, error) {
	if err := m.usable("fate"); err != nil {
		return nil, err
	}
	d := &m.durable
	exact := d.sealVersion == req.Version && d.sealLength == req.Length && m.complete(req.Version, req.Length)
	known := d.sealLength // records behind it are of a later version, and not this seal's
	switch {
	case off(FateFromShort):
		exact, known = true, d.length
	case off(FateFromOlderSeal):
		exact, known = d.sealVersion != 0, d.length
	case off(FateBeforeSeal):
		exact, known = exact || req.Length < 0, d.length
	}
	if !exact {
		return nil, quarry.Errorf("fate", quarry.StaleVersion, m.r.Handle.String(), "asked about seal %d at %d, the replica has seal %d at %d",
			req.Version, req.Length, d.sealVersion, d.sealLength)
	}
	if len(req.Sequences) > quarry.WindowRecords {
		return nil, quarry.Errorf("fate", quarry.TooLarge, m.r.Handle.String(), "%d records, at most %d can be asked for", len(req.Sequences), quarry.WindowRecords)
	}
	reply := &quarry.FateReply{Version: req.Version, Length: req.Length}
	forgotten := slices.Contains(m.r.Forgotten, req.Session) && !off(ForgottenIsAbsent)
	for _, seq := range req.Sequences {
		f := quarry.Fate{Sequence: seq, State: quarry.FateAbsent}
		if rec, ok := m.r.Records.Find(req.Session, seq); ok && rec.End() <= known {
			f.State, f.Offset = quarry.FateCommitted, rec.Offset
		} else if forgotten {
			f.State = quarry.FateUnknown
		}
		reply.Fates = append(reply.Fates, f)
	}
	return reply, nil
}
