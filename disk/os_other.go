//go:build !linux

package disk

// Sync implements File.
func (f *osFile) Sync() error { return f.File.Sync() }

// Allocate implements File.
func (f *osFile) Allocate(off, n int64) error {
	size, err := f.Size()
	if err != nil || size >= off+n {
		return err
	}
	return f.Truncate(off + n)
}

// StartWriteback implements File.
func (f *osFile) StartWriteback(off, n int64) {}
