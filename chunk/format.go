package chunk

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// Names in the folder of a disk.
const (
	formatName  = "FORMAT"
	lockName    = "lock"
	journalName = "journal"
	chunksName  = "chunks"
	trashName   = "trash"

	indexSuffix = ".idx"
	tempSuffix  = ".tmp"
)

// formatVersion is the version of the folder's layout and of the records in its journal.
const formatVersion = 1

// formatBytesMax is more than any FORMAT file has.
const formatBytesMax = 4096

// Identity says whose disk a folder is. It is kept in the file FORMAT, which people may
// read, too:
//
//	quarry disk format 1
//	cluster 00112233445566778899aabbccddeeff
//	disk 00112233445566778899aabbccddeeff
//	server 7
//	crc32c 1a2b3c4d
//
// The checksum is that of the lines before it. Only these very bytes are accepted: a file
// that says the same in another way has been edited by somebody who cannot compute the
// checksum.
type Identity struct {
	Cluster quarry.ClusterID
	Disk    quarry.DiskID
	Server  quarry.ServerID // 0: the server has not been given its number yet
}

// encode returns the content of the FORMAT file.
func (id Identity) encode() []byte {
	b := fmt.Appendf(nil, "quarry disk format %d\ncluster %v\ndisk %v\nserver %d\n", formatVersion, id.Cluster, id.Disk, id.Server)
	return fmt.Appendf(b, "crc32c %08x\n", checksum(b))
}

// decodeIdentity is the inverse of encode. A later format is refused by its number before
// anything else is looked at.
func decodeIdentity(b []byte) (Identity, error) {
	var id Identity
	version, rest, ok := bytes.Cut(bytes.TrimPrefix(b, []byte("quarry disk format ")), []byte("\n"))
	if !bytes.HasPrefix(b, []byte("quarry disk format ")) || !ok || len(b) > formatBytesMax {
		return id, quarry.Errorf("open disk", quarry.Corrupt, formatName, "this is not the FORMAT file of a disk")
	}
	if n, err := strconv.ParseUint(string(version), 10, 32); err == nil && n != formatVersion {
		return id, quarry.Errorf("open disk", quarry.Unsupported, formatName,
			"the folder has format %d; this release reads format %d only: start a release that knows it", n, formatVersion)
	}
	for line := range strings.Lines(string(rest)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch key {
		case "cluster":
			decodeHex(id.Cluster[:], value)
		case "disk":
			decodeHex(id.Disk[:], value)
		case "server":
			n, _ := strconv.ParseUint(value, 10, 64)
			id.Server = quarry.ServerID(n)
		}
	}
	// What was not understood does not come back.
	if !bytes.Equal(id.encode(), b) {
		return Identity{}, quarry.Errorf("open disk", quarry.Corrupt, formatName, "the file does not match its checksum")
	}
	return id, nil
}

func decodeHex(dst []byte, value string) {
	if b, err := hex.DecodeString(value); err == nil {
		copy(dst, b)
	}
}

// ReadIdentity returns whose disk a folder is, without opening it; NotFound if it is
// nobody's yet.
func ReadIdentity(fsys disk.FS) (Identity, error) {
	b, err := readFile(fsys, formatName, formatBytesMax)
	if err != nil {
		return Identity{}, disk.Wrap("open disk", formatName, err)
	}
	return decodeIdentity(b)
}

// identify compares the folder with what the caller expects of it, and makes an empty
// folder the disk of want.
func identify(fsys disk.FS, want Identity) (Identity, error) {
	have, err := ReadIdentity(fsys)
	if errors.Is(err, quarry.NotFound) {
		return want, makeDisk(fsys, want)
	}
	switch {
	case err != nil:
		return have, err
	case !want.Cluster.IsZero() && have.Cluster != want.Cluster:
		return have, quarry.Errorf("open disk", quarry.WrongCluster, formatName, "the folder belongs to cluster %v, this server to %v", have.Cluster, want.Cluster)
	case !want.Disk.IsZero() && have.Disk != want.Disk:
		return have, quarry.Errorf("open disk", quarry.Invalid, formatName, "the folder is disk %v, not %v", have.Disk, want.Disk)
	case want.Server != 0 && have.Server != 0 && have.Server != want.Server:
		return have, quarry.Errorf("open disk", quarry.Invalid, formatName, "the folder belongs to server %d, not %d", have.Server, want.Server)
	}
	return have, nil
}

// makeDisk makes a folder a disk. FORMAT comes last: a folder without it holds no chunks.
func makeDisk(fsys disk.FS, id Identity) error {
	if id.Cluster.IsZero() || id.Disk.IsZero() {
		return quarry.Errorf("open disk", quarry.NotFound, formatName, "the folder is nobody's disk yet, and there is no cluster to make it for")
	}
	for _, dir := range []string{chunksName, journalName} {
		names, err := fsys.List(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return disk.Wrap("open disk", dir, err)
		}
		if len(names) > 0 {
			return quarry.Errorf("open disk", quarry.Corrupt, formatName, "the file is missing, though %s/ is not empty; put it back, or empty the folder", dir)
		}
	}
	for _, dir := range []string{chunksName, trashName} {
		if err := fsys.MkdirAll(dir); err != nil {
			return disk.Wrap("make disk", dir, err)
		}
	}
	return disk.Wrap("make disk", formatName, writeFile(fsys, formatName, id.encode()))
}

// SetServer gives the disk's server its number, once; durable when it returns.
func (s *Store) SetServer(id quarry.ServerID) error {
	s.mu.Lock()
	have := s.identity
	s.mu.Unlock()
	if have.Server == id {
		return nil
	}
	if have.Server != 0 {
		return quarry.Errorf("set server", quarry.Invalid, formatName, "the disk belongs to server %d already, not to %d", have.Server, id)
	}
	have.Server = id
	if err := writeFile(s.fs, formatName, have.encode()); err != nil {
		return s.failure("set server", formatName, err)
	}
	s.mu.Lock()
	s.identity = have
	s.mu.Unlock()
	return nil
}

// A frame holds the content of a binary file. Integers are little-endian.
//
//	 0  8  magic
//	 8  4  format version
//	12  4  length n of the content
//	16  4  CRC32C of the 16 bytes before and of the content
//	20  n  content
const frameHeaderBytes = 20

// appendFrame appends the frame of content to dst.
func appendFrame(dst []byte, magic string, version uint32, content []byte) []byte {
	start := len(dst)
	dst = append(dst, magic...)
	dst = binary.LittleEndian.AppendUint32(dst, version)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(content)))
	sum := combine(checksum(dst[start:]), checksum(content), int64(len(content)))
	dst = binary.LittleEndian.AppendUint32(dst, sum)
	return append(dst, content...)
}

// openFrame returns the content of a frame that fills b.
func openFrame(b []byte, magic string, version uint32) ([]byte, error) {
	if len(b) < frameHeaderBytes || string(b[:8]) != magic {
		return nil, corrupt("the file does not begin with %q", magic)
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != version {
		return nil, quarry.Errorf("open", quarry.Unsupported, "", "the file has format %d; this release reads format %d only", v, version)
	}
	head, content := b[:16], b[frameHeaderBytes:]
	if uint64(binary.LittleEndian.Uint32(b[12:])) != uint64(len(content)) {
		return nil, corrupt("the file has %d bytes of content, its header says %d", len(content), binary.LittleEndian.Uint32(b[12:]))
	}
	if combine(checksum(head), checksum(content), int64(len(content))) != binary.LittleEndian.Uint32(b[16:]) {
		return nil, corrupt("the file does not match its checksum")
	}
	return content, nil
}

// corrupt returns a Corrupt error.
func corrupt(format string, args ...any) error {
	return quarry.Errorf("chunk", quarry.Corrupt, "", format, args...)
}

// chunkDir returns the folder of a chunk's files: one of 256, by the last byte of the
// handle, because handles that are made one after the other differ there.
func chunkDir(h quarry.Handle) string { return fmt.Sprintf("%s/%02x", chunksName, byte(h)) }

// chunkName returns the name of the file of a chunk's bytes.
func chunkName(h quarry.Handle) string { return path.Join(chunkDir(h), h.String()) }

// parseHandle is the inverse of Handle.String; false for other names.
func parseHandle(name string) (quarry.Handle, bool) {
	n, err := strconv.ParseUint(name, 16, 64)
	h := quarry.Handle(n)
	return h, err == nil && n != 0 && h.String() == name
}

// writeFile makes a small file durable under a name, in one step: whoever reads it finds
// the content before or after.
func writeFile(fsys disk.FS, name string, content []byte) error {
	temp := name + tempSuffix
	f, err := createNew(fsys, temp)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(content, 0)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = fsys.Rename(temp, name)
	}
	if err != nil {
		return err
	}
	return fsys.SyncDir(path.Dir(name))
}

// createNew makes a file, in the place of one that may be left over.
func createNew(fsys disk.FS, name string) (disk.File, error) {
	f, err := fsys.Create(name)
	if errors.Is(err, fs.ErrExist) {
		if err := fsys.Remove(name); err != nil {
			return nil, err
		}
		f, err = fsys.Create(name)
	}
	return f, err
}

// readFile returns the content of a file of at most limit bytes.
func readFile(fsys disk.FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, corrupt("the file has %d bytes, at most %d are believed", size, limit)
	}
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); int64(n) < size {
		return nil, err
	}
	return b, nil
}
