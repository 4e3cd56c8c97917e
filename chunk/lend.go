package chunk

import (
	"os"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// Lend opens a replica's file once more, for reading only, and returns it with the checksums of
// its first length bytes: n of them, fewer if fewer are durable. The caller lowers n, at least
// 1, to what is committed, and closes the file.
//
// The bytes below that length stay what they are for as long as the file is open: a seal and
// the recovery after a crash cut a file only behind its durable bytes, a copy comes as another
// file under the same name, and a dropped replica's file is renamed and then removed.
//
// Errors are those of Read, and Unsupported if the disk has no file descriptors; Corrupt also if
// bytes are known to be broken: whoever reads such a replica needs every block looked at.
func (s *Store) Lend(h quarry.Handle, n int64) (file *os.File, length int64, crcs []uint32, err error) {
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
		length = min(n, v.length)
		if err := v.readSums(&sums, f, 0, length); err != nil {
			return err
		}
		crcs = sums.CRCs
		if file, err = disk.ReadOnly(f.File); err != nil {
			return quarry.Errorf("lend", quarry.Unsupported, h.String(), "%w", err)
		}
		return nil
	})
	return file, length, crcs, err
}
