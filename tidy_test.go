package quarry_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// layers lists every room and all the rooms it may import. The contract (the module's root
// package) is the room ".", and every room may import it; "wire" is the encoding and "crc32c" the
// checksum, which the rooms that store or send something share.
var layers = map[string]string{
	".":           "",
	"wire":        "",
	"crc32c":      "",
	"clock":       "",
	"disk":        "clock",
	"journal":     "disk crc32c",
	"rpc":         "clock wire crc32c",
	"protocol":    "",
	"meta":        "wire",
	"chunk":       "disk journal wire crc32c",
	"raft":        "clock disk journal rpc wire crc32c",
	"client":      "clock rpc protocol wire crc32c",
	"master":      "clock disk rpc raft meta protocol wire crc32c",
	"chunkserver": "clock disk rpc chunk protocol wire crc32c",
	"transfer":    "clock client crc32c",
	"gateway":     "client",
	"dashboard":   "client",
	"history":     "clock client crc32c",
	"cluster":     "*",
	"chaos":       "clock cluster client disk history rpc crc32c",
	"bench":       "*",
	"sim":         "*",
	"cmd":         "*",
	"test":        "",
}

const (
	module           = "github.com/quarryfs/quarry/"
	maxFileLines     = 600
	maxFuncLines     = 70
	maxRoomLines     = 6000 // of a room without sub-folders
	maxContractLines = 1000 // of code: comments and blank lines are free, the contract lives by them
	maxFileBytes     = 256 << 10
)

// banned names calls that only one room may make: the seams of time, files and sockets.
var banned = []struct{ call, rooms, why string }{
	{"time.Now", "clock", "ask the clock.Clock you were given"},
	{"time.After", "clock", "use clock.Clock.NewTimer"},
	{"time.AfterFunc", "clock", "use clock.Clock.NewTimer"},
	{"time.Since", "clock", "use clock.Clock.Now"},
	{"time.NewTimer", "clock", "use clock.Clock.NewTimer"},
	{"time.NewTicker", "clock", "use clock.Clock.NewTicker"},
	{"time.Sleep", "clock", "use clock.Clock.Sleep"},
	{"net.Dial", "rpc bench", "use rpc.Network"},
	{"net.DialTimeout", "rpc", "use rpc.Network"},
	{"net.Listen", "rpc gateway dashboard cmd bench", "use rpc.Network"},
	{"os.OpenFile", "disk cmd bench cluster chaos transfer", "use disk.FS"},
	{"os.Create", "disk cmd bench cluster", "use disk.FS"},
}

func room(p string) string {
	r, _, deep := strings.Cut(filepath.ToSlash(p), "/")
	if !deep {
		return "."
	}
	return r
}

func TestTidy(t *testing.T) {
	fset := token.NewFileSet()
	packageDocs := map[string]int{}
	roomLines := map[string]int{}
	contractCode := 0
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); name != "." && strings.HasPrefix(name, ".") {
				return fs.SkipDir
			}
			return nil
		}
		if info, err := d.Info(); err == nil && info.Size() > maxFileBytes && !strings.HasSuffix(p, "go.sum") {
			t.Errorf("%s: %d bytes, at most %d", p, info.Size(), maxFileBytes)
		}
		if path.Ext(p) != ".go" {
			return nil
		}
		src, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(fset, p, src, parser.ParseComments)
		if err != nil {
			t.Error(err)
			return nil
		}
		generated := ast.IsGenerated(f)
		test := strings.HasSuffix(p, "_test.go")
		checkImports(t, fset, p, f, test)
		checkCalls(t, fset, p, f, test)
		if !generated {
			checkLengths(t, fset, p, f, test)
		}
		if test {
			return nil
		}
		if f.Doc != nil {
			packageDocs[filepath.Dir(p)]++
		} else {
			packageDocs[filepath.Dir(p)] += 0
		}
		checkDocs(t, fset, f)
		if !generated {
			roomLines[filepath.Dir(p)] += bytes.Count(src, []byte("\n"))
		}
		if room(p) == "." {
			contractCode += codeLines(src)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for dir, n := range packageDocs {
		if n != 1 {
			t.Errorf("%s: %d package comments, want 1", dir, n)
		}
	}
	for dir, n := range roomLines {
		if n > maxRoomLines {
			t.Errorf("%s: %d lines, at most %d in one folder", dir, n, maxRoomLines)
		}
	}
	if contractCode > maxContractLines {
		t.Errorf("the contract has %d lines of code, at most %d", contractCode, maxContractLines)
	}
}

// codeLines counts the lines that are neither blank nor only a comment.
func codeLines(src []byte) (n int) {
	for line := range bytes.Lines(src) {
		if s := bytes.TrimSpace(line); len(s) > 0 && !bytes.HasPrefix(s, []byte("//")) {
			n++
		}
	}
	return n
}

func checkImports(t *testing.T, fset *token.FileSet, p string, f *ast.File, test bool) {
	r := room(p)
	allowed, known := layers[r]
	if !known {
		t.Errorf("%s: room %q is not in the layers table", p, r)
	}
	for _, im := range f.Imports {
		s, _ := strconv.Unquote(im.Path.Value)
		to, ours := strings.CutPrefix(s, module)
		if !ours || test || allowed == "*" || room(to+"/") == r {
			continue
		}
		if !strings.Contains(" "+allowed+" ", " "+room(to+"/")+" ") {
			t.Errorf("%s: %s may not import %s", fset.Position(im.Pos()), r, to)
		}
	}
}

func checkCalls(t *testing.T, fset *token.FileSet, p string, f *ast.File, test bool) {
	r := room(p)
	ast.Inspect(f, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		x, ok := sel.X.(*ast.Ident)
		if !ok {
			return true
		}
		call := x.Name + "." + sel.Sel.Name
		if test {
			if call == "time.Sleep" {
				t.Errorf("%s: no time.Sleep in tests: wait for what you mean, or use testing/synctest", fset.Position(n.Pos()))
			}
			return true
		}
		for _, b := range banned {
			if call == b.call && !strings.Contains(" "+b.rooms+" ", " "+r+" ") {
				t.Errorf("%s: %s is for %s only: %s", fset.Position(n.Pos()), call, b.rooms, b.why)
			}
		}
		return true
	})
}

func checkLengths(t *testing.T, fset *token.FileSet, p string, f *ast.File, test bool) {
	if n := fset.Position(f.FileEnd).Line; n > maxFileLines {
		t.Errorf("%s: %d lines, at most %d", p, n, maxFileLines)
	}
	for _, decl := range f.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || test {
			continue
		}
		if n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1; n > maxFuncLines {
			t.Errorf("%s: func %s has %d lines, at most %d", fset.Position(fn.Pos()), fn.Name.Name, n, maxFuncLines)
		}
	}
}

// checkDocs wants a comment at every exported name of a package that others import.
func checkDocs(t *testing.T, fset *token.FileSet, f *ast.File) {
	if f.Name.Name == "main" {
		return
	}
	missing := func(n ast.Node, name string) {
		t.Errorf("%s: exported %s has no comment", fset.Position(n.Pos()), name)
	}
	for _, decl := range f.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) {
				missing(d, d.Name.Name)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					if s.Name.IsExported() && d.Doc == nil && s.Doc == nil {
						missing(s, s.Name.Name)
					}
				case *ast.ValueSpec:
					if s.Names[0].IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
						missing(s, s.Names[0].Name)
					}
				}
			}
		}
	}
}

// exportedReceiver reports whether a method can be seen from outside, and needs words of its
// own: String, Error and the like say what they do by their name.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	switch d.Name.Name {
	case "String", "Error", "Unwrap", "Is", "Close", "Len", "Less", "Swap":
		return false
	}
	t := d.Recv.List[0].Type
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	if index, ok := t.(*ast.IndexExpr); ok {
		t = index.X
	}
	id, ok := t.(*ast.Ident)
	return ok && id.IsExported()
}
