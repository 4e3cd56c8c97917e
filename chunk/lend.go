package chunk

import (
	"errors"
	"os"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// Lent is a replica's file, open once more, for reading only.
type Lent struct {
	File    *os.File
	Length  int64    // durable bytes that count
	CRCs    []uint32 // of each block of them; the last one ends at Length
	Edition uint64   // of the replica, see Store.Edition
}

// Lend opens a replica's file once more, with its first n bytes, or fewer if fewer are durable.
// The caller lowers n, at least 1, to what is committed, and closes the file.
//
// The bytes below that length stay what they are for as long as the file is open: a seal and
// the recovery after a crash cut a file only behind its durable bytes, a copy comes as another
// file under the same name, and a dropped replica's file is renamed and then removed. As long as
// the replica has the edition, the file is the one that it is in: the edition is taken before the
// file is opened, and changes before another one is served.
//
// Errors are those of Read, and Unsupported if the disk has no file descriptors, or Unavailable if
// the system does not give one; Corrupt also if
// bytes are known to be broken: whoever reads such a replica needs every block looked at.
func (s *Store) Lend(h quarry.Handle, n int64) (lent Lent, err error) {
	err = s.lookAt("lend", h, 0, n, func(v *view) error {
		if v.suspect() {
			return corrupt("bytes of the replica are broken")
		}
		f, err := s.files.get(h)
		if err != nil {
			return err
		}
		defer s.files.put(f)
		var sums quarry.ReadReply
		length := min(n, v.length)
		if err := v.readSums(&sums, f, 0, length); err != nil {
			return err
		}
		file, err := disk.ReadOnly(f.File)
		if err == nil {
			lent = Lent{file, length, sums.CRCs, v.edition}
			return nil
		}
		kind := quarry.Unavailable // too many open files, or no /proc
		if errors.Is(err, errors.ErrUnsupported) {
			kind = quarry.Unsupported
		}
		return quarry.Errorf("lend", kind, h.String(), "the file cannot be opened once more: %w", err)
	})
	return lent, err
}
