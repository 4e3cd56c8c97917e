package root

import (
	"slices"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// Register gives the process of a chunk server its number and an incarnation that was never
// used; the same process again gets the same ones. The disks say which server it is: a server that has no number yet gets one, unless a
// disk is known, as when the answer to its first registration was lost. Refused are, with
// Invalid, disks of two servers, or of another one; with NotFound, a server that is not known
// or forgotten; and with Corrupt, disks that have seen an incarnation which this log has not
// issued (the masters were restored from an old state), or that show an older one than a
// process is known to have taken (the disks were); with StaleVersion a process that another one
// has followed, whose request comes late. Result: Server, Incarnation, SameBoot, Absent.
type Register struct {
	Server  quarry.ServerID // 0: a server that has none yet
	Disks   []quarry.DiskID // 1 to 256
	Boot    string
	Address string
	Rack    string
	Last    quarry.Incarnation // the highest one that the disks have seen
	Process quarry.ProcessID   // of this start; zero: the request is not told from others
}

func (*Register) kind() Kind { return KindRegister }

func (c *Register) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.Server)
	wire.Fixed16s(w, 11, &c.Disks, disksMax)
	wire.String(w, 12, &c.Boot, textBytesMax)
	wire.String(w, 13, &c.Address, textBytesMax)
	wire.String(w, 14, &c.Rack, textBytesMax)
	wire.Uint(w, 15, &c.Last)
	wire.Fixed16(w, 16, &c.Process)
}

func (c *Register) apply(t *tx, r *Result) error {
	s, known, err := c.server(t)
	if err != nil {
		return err
	}
	switch {
	case !c.Process.IsZero() && c.Process == s.Process:
		s.tell(r)
		return nil
	case slices.Contains(s.Before, c.Process):
		return refuse(quarry.StaleVersion, "another process of server %d has begun since this one asked", s.Server)
	case c.Last >= t.header.NextIncarnation || s.Server != 0 && c.Last > s.Incarnation:
		return refuse(quarry.Corrupt, "the disks of server %d have seen incarnation %d, which was never issued: "+
			"the masters know less than they did; do not go on before their state is restored", s.Server, c.Last)
	case known && c.Last < s.Confirmed:
		return refuse(quarry.Corrupt, "the disks of server %d show incarnation %d after %d was taken: "+
			"they were restored from an old image; empty them", s.Server, c.Last, s.Confirmed)
	}
	if s.Server == 0 {
		if t.header.NextServer > serversMax {
			return refuse(quarry.Busy, "there are %d chunk servers already", serversMax)
		}
		s.Server = t.header.NextServer
	}
	if err := c.setDisks(&s); err != nil {
		return err
	}
	t.header.NextServer = max(t.header.NextServer, s.Server+1)
	for _, d := range c.Disks {
		put(t, diskKey(d), &owner{s.Server}, ownerFields)
	}
	s.follow(c)
	s.Incarnation = t.header.NextIncarnation
	t.header.NextIncarnation++
	s.Confirmed = max(s.Confirmed, c.Last)
	s.Boot, s.Address, s.Rack, s.RegisteredNS = c.Boot, c.Address, c.Rack, t.wallNS
	put(t, serverKey(s.Server), &s, serverFields)
	s.tell(r)
	return nil
}

// follow notes that a process takes the place of the one before.
func (s *Server) follow(c *Register) {
	s.SameBoot = c.Boot != "" && c.Boot == s.Boot
	if !s.Process.IsZero() {
		s.Before = append(s.Before, s.Process)
		s.Before = s.Before[max(0, len(s.Before)-beforeMax):]
	}
	s.Process = c.Process
}

// tell puts what the server's present process was given into a result.
func (s *Server) tell(r *Result) {
	r.Server, r.Incarnation, r.SameBoot = s.Server, s.Incarnation, s.SameBoot
	for _, d := range s.Disks {
		if d.Absent {
			r.Absent = append(r.Absent, d.Disk)
		}
	}
}

// server returns the record of the server that registers, a zero one for a new server, and
// whether one of its disks is known.
func (c *Register) server(t *tx) (s Server, known bool, err error) {
	if t.header.Cluster.IsZero() {
		return s, false, errNotMade
	}
	if len(c.Disks) == 0 {
		return s, false, refuse(quarry.Invalid, "a chunk server needs a disk")
	}
	id := c.Server
	for i, d := range c.Disks {
		for _, before := range c.Disks[:i] {
			if before == d {
				return s, false, refuse(quarry.Invalid, "disk %v comes twice", d)
			}
		}
		var o owner
		switch has := load(&t.state, diskKey(d), &o, ownerFields); {
		case d.IsZero():
			return s, false, refuse(quarry.Invalid, "a disk has no identity")
		case has && id != 0 && id != o.Server:
			return s, false, refuse(quarry.Invalid, "disk %v belongs to server %d, not to server %d", d, o.Server, id)
		case has:
			id, known = o.Server, true
		}
	}
	if id == 0 {
		return s, false, nil
	}
	if !load(&t.state, serverKey(id), &s, serverFields) || s.Forgotten {
		return s, false, refuse(quarry.NotFound, "server %d is not known, or was given up; empty its disks to begin anew", id)
	}
	return s, known, nil
}

// setDisks brings the server's list of disks up to date.
func (c *Register) setDisks(s *Server) error {
	for i := range s.Disks {
		s.Disks[i].Absent = true
	}
next:
	for _, d := range c.Disks {
		for i := range s.Disks {
			if s.Disks[i].Disk == d {
				s.Disks[i].Absent = false
				continue next
			}
		}
		if len(s.Disks) == disksMax {
			return refuse(quarry.Busy, "server %d has had %d disks", s.Server, disksMax)
		}
		s.Disks = append(s.Disks, Disk{Disk: d})
	}
	return nil
}

// Confirm notes that a server's process has taken its incarnation: its disks have it. Logged
// at its first heartbeat, it tells disks that were restored from an old image. An incarnation
// that is not the server's last one is ignored.
type Confirm struct {
	Server      quarry.ServerID
	Incarnation quarry.Incarnation
}

func (*Confirm) kind() Kind { return KindConfirm }

func (c *Confirm) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.Server)
	wire.Uint(w, 11, &c.Incarnation)
}

func (c *Confirm) apply(t *tx, _ *Result) error {
	var s Server
	if !load(&t.state, serverKey(c.Server), &s, serverFields) {
		return refuse(quarry.NotFound, "server %d is not known", c.Server)
	}
	if c.Incarnation == s.Incarnation && s.Confirmed < c.Incarnation {
		s.Confirmed = c.Incarnation
		put(t, serverKey(s.Server), &s, serverFields)
	}
	return nil
}

// ForgetServer gives a server up for good: it can register no more, nor can its disks.
type ForgetServer struct{ Server quarry.ServerID }

func (*ForgetServer) kind() Kind { return KindForgetServer }

func (c *ForgetServer) fields(w *wire.Walk) { wire.Uint(w, 10, &c.Server) }

func (c *ForgetServer) apply(t *tx, _ *Result) error {
	var s Server
	if !load(&t.state, serverKey(c.Server), &s, serverFields) {
		return refuse(quarry.NotFound, "server %d is not known", c.Server)
	}
	s.Forgotten = true
	put(t, serverKey(s.Server), &s, serverFields)
	return nil
}
