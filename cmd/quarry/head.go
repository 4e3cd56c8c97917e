package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/crc32c"
)

func headCommand(o *options) *cobra.Command {
	var lines, size int64
	c := &cobra.Command{
		Use:     "head PATH…",
		Short:   "Show the beginning of files",
		Long:    "Shows the first lines of files, or the first bytes.\n\n" + globHelp,
		Example: "  quarry head /logs/today\n  quarry head -c 512 /disk.img | xxd",
		Args:    args(1, -1, "at least one path"),
		RunE: func(c *cobra.Command, args []string) error {
			if lines < 0 || size < 0 {
				return usageError{errors.New("head: numbers cannot be negative")}
			}
			return o.eachFile(c, args, func(f *client.File, p string) error {
				var r io.Reader = f
				if c.Flags().Changed("bytes") {
					r = io.LimitReader(f, size)
				} else {
					r = &lineReader{r: f, lines: lines}
				}
				_, err := io.Copy(os.Stdout, r)
				return err
			})
		},
	}
	c.Flags().Int64VarP(&lines, "lines", "n", 10, "how many lines")
	c.Flags().Int64VarP(&size, "bytes", "c", 0, "how many bytes, instead of lines")
	return c
}

// eachFile opens the files that the paths of a command line mean, one after the other.
func (o *options) eachFile(c *cobra.Command, patterns []string, do func(f *client.File, path string) error) error {
	return o.withPaths(c, patterns, func(ctx context.Context, fs *client.FS, paths []string) error {
		for _, p := range paths {
			f, err := fs.Open(ctx, p)
			if err != nil {
				return err
			}
			err = do(f, p)
			f.Close()
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// lineReader gives the first lines of a reader.
type lineReader struct {
	r     io.Reader
	lines int64 // still to come
}

func (l *lineReader) Read(p []byte) (int, error) {
	if l.lines <= 0 {
		return 0, io.EOF
	}
	n, err := l.r.Read(p[:min(len(p), 64<<10)])
	for i, c := range p[:n] {
		if c == '\n' {
			if l.lines--; l.lines == 0 {
				return i + 1, nil
			}
		}
	}
	return n, err
}

// lastLines returns where the last lines of a file begin, of which the last need not have an end.
// At most the last size bytes of the file are looked at by steps of 64 KiB.
func lastLines(f io.ReaderAt, size, lines int64) (int64, error) {
	if lines <= 0 {
		return size, nil
	}
	buf := make([]byte, 64<<10)
	for end := size; end > 0; {
		n := min(end, int64(len(buf)))
		if _, err := f.ReadAt(buf[:n], end-n); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		part := buf[:n]
		for i := bytes.LastIndexByte(part, '\n'); i >= 0; i = bytes.LastIndexByte(part[:i], '\n') {
			at := end - n + int64(i) + 1 // where the next line begins
			if at == size {
				continue
			}
			if lines--; lines == 0 {
				return at, nil
			}
		}
		end -= n
	}
	return 0, nil
}

// counts are what wc counts.
type counts struct {
	Lines int64  `json:"lines"`
	Words int64  `json:"words"`
	Bytes int64  `json:"bytes"`
	Path  string `json:"path,omitempty"`
}

func wcCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "wc PATH…",
		Short: "Count lines, words and bytes",
		Long: `Counts the lines, words and bytes of files: the line ends, and what stands between white space.

` + globHelp,
		Example: "  quarry wc /logs/today\n  quarry wc '/logs/2026-*'",
		Args:    args(1, -1, "at least one path"),
		RunE: func(c *cobra.Command, args []string) error {
			var sum counts
			files := 0
			err := o.eachFile(c, args, func(f *client.File, p string) error {
				n, err := count(f)
				if err != nil {
					return err
				}
				n.Path = p
				files++
				sum.Lines, sum.Words, sum.Bytes = sum.Lines+n.Lines, sum.Words+n.Words, sum.Bytes+n.Bytes
				return n.print(o)
			})
			if sum.Path = "total"; err != nil || files < 2 || o.json {
				return err
			}
			return sum.print(o)
		},
	}
}

func (n counts) print(o *options) error {
	if o.json {
		return printJSON(os.Stdout, n)
	}
	_, err := fmt.Printf("%8d %8d %10d %s\n", n.Lines, n.Words, n.Bytes, printable(n.Path))
	return err
}

// count counts what a reader gives, whose text is UTF-8.
func count(r io.Reader) (n counts, err error) {
	in := bufio.NewReaderSize(r, 1<<20)
	inWord := false
	for {
		c, size, err := in.ReadRune()
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		n.Bytes += int64(size)
		if c == '\n' {
			n.Lines++
		}
		space := c != utf8.RuneError && unicode.IsSpace(c)
		if !space && !inWord {
			n.Words++
		}
		inWord = !space
	}
}

// hashes are the algorithms of checksum.
var hashes = map[string]func() hash.Hash{
	"sha256": sha256.New, "sha512": sha512.New, "md5": md5.New,
	"crc32c": func() hash.Hash { return crc32c.New() },
}

func checksumCommand(o *options) *cobra.Command {
	var algorithm string
	c := &cobra.Command{
		Use:   "checksum PATH…",
		Short: "Show the checksums of files",
		Long: `Reads files and shows a checksum of each, as sha256sum does: what it prints can be given to
"sha256sum --check" beside a copy. The algorithms are sha256, sha512, md5 and crc32c.

` + globHelp,
		Example: "  quarry checksum /archive/big.tar\n  quarry checksum --algorithm md5 '/in/*'",
		Args:    args(1, -1, "at least one path"),
		RunE: func(c *cobra.Command, args []string) error {
			make, ok := hashes[algorithm]
			if !ok {
				return usageError{fmt.Errorf("--algorithm can be %s, not %q", strings.Join(algorithms(), ", "), algorithm)}
			}
			return o.eachFile(c, args, func(f *client.File, p string) error {
				h := make()
				n, err := io.Copy(h, f)
				if err != nil {
					return err
				}
				if o.json {
					return printJSON(os.Stdout, map[string]any{"path": p, "size": n, "algorithm": algorithm, "checksum": fmt.Sprintf("%x", h.Sum(nil))})
				}
				_, err = fmt.Printf("%x  %s\n", h.Sum(nil), printable(p))
				return err
			})
		},
	}
	c.Flags().StringVarP(&algorithm, "algorithm", "a", "sha256", "sha256, sha512, md5 or crc32c")
	return c
}

func algorithms() (names []string) {
	for name := range hashes {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
