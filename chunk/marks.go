package chunk

import (
	"slices"

	"github.com/quarryfs/quarry"
)

// Promise raises the promised version to v; a lower v changes nothing.
func (s *Store) Promise(h quarry.Handle, v quarry.Version, done func(error)) {
	s.mark("promise", h, done, func(st *State) error {
		st.Promised = max(st.Promised, v)
		return nil
	})
}

// Adopt notes that the server takes the role of primary in version v. StaleVersion if it
// took that role before, or the version is not the promised one.
func (s *Store) Adopt(h quarry.Handle, v quarry.Version, done func(error)) {
	s.mark("adopt", h, done, func(st *State) error {
		if st.Promised != v || st.LogVersion != v || st.Adopted >= v {
			return quarry.Errorf("adopt", quarry.StaleVersion, h.String(),
				"version %d is promised, the bytes are of %d, the role was taken in %d", st.Promised, st.LogVersion, st.Adopted)
		}
		st.Adopted = v
		return nil
	})
}

// Add lets a copied replica serve. StaleVersion if it is not sealed at version v.
func (s *Store) Add(h quarry.Handle, v quarry.Version, mutable bool, done func(error)) {
	s.mark("add", h, done, func(st *State) error {
		if st.SealVersion != v {
			return quarry.Errorf("add", quarry.StaleVersion, h.String(), "the replica is sealed at version %d, not %d", st.SealVersion, v)
		}
		st.Serving, st.Mutable = true, st.Mutable || mutable
		return nil
	})
}

// Mark marks a replica MUTABLE, for ever.
func (s *Store) Mark(h quarry.Handle, done func(error)) {
	s.mark("mark", h, done, func(st *State) error {
		st.Mutable = true
		return nil
	})
}

// Forget gives the records of a session to nobody, for ever. TooLarge if the replica has
// forgotten ForgottenMax sessions.
func (s *Store) Forget(h quarry.Handle, session quarry.SessionID, done func(error)) {
	s.mark("forget", h, done, func(st *State) error {
		if slices.Contains(st.Forgotten, session) {
			return nil
		}
		if len(st.Forgotten) >= ForgottenMax {
			return quarry.Errorf("forget", quarry.TooLarge, h.String(), "%d sessions are forgotten", len(st.Forgotten))
		}
		st.Forgotten = append(slices.Clip(st.Forgotten), session) // readers may have the other slice
		return nil
	})
}

// MarkCorrupt notes that bytes of the replica do not match their checksums. It stays so
// until a copy replaces it.
func (s *Store) MarkCorrupt(h quarry.Handle, done func(error)) {
	s.mark("mark corrupt", h, done, func(st *State) error {
		st.Status = quarry.ReplicaCorrupt
		return nil
	})
}

// mark makes a change that needs nothing but its record in the journal.
func (s *Store) mark(what string, h quarry.Handle, done func(error), change func(*State) error) {
	s.ask(h, &op{done: done, change: func(st *State) error {
		if err := st.usable(what); err != nil {
			return err
		}
		return change(st)
	}})
}
