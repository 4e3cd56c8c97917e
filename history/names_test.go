package history

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

const testTree = "/history/names/0"

// name is an operation on names.
func name(kind Kind, path string) Op {
	return Op{Worker: 1, Kind: kind, Class: ClassNames, Subject: testTree, Path: path}
}

func mkdir(path string) Op  { return name(KindMkdir, path) }
func create(path string) Op { return name(KindCreate, path) }
func remove(path string) Op { return name(KindRemove, path) }

func rename(from, to string) Op {
	op := name(KindRename, from)
	op.To = to
	return op
}

func list(path string, names ...string) Op {
	op := name(KindList, path)
	op.Names = names
	return op
}

func statFile(path string) Op {
	op := name(KindStat, path)
	op.Found = FoundFile
	return op
}

func statDir(path string, entries int64) Op {
	op := name(KindStat, path)
	op.Found, op.Length = FoundDir, entries
	return op
}

// undelete brings the file with a value back, from a trash that keeps files for 100.
func undelete(path string, value uint64) Op {
	op := name(KindUndelete, path)
	op.Value, op.KeepNS = value, 100
	return op
}

func chmod(path string, mode uint32) Op {
	op := name(KindChmod, path)
	op.Mode = mode
	return op
}

// withMode has a stat see a mode.
func withMode(mode uint32, op Op) Op {
	op.Mode = mode
	return op
}

func removeNow(path string) Op {
	op := remove(path)
	op.Now = true
	return op
}

func withValue(value uint64, op Op) Op {
	op.Value = value
	return op
}

// sequential puts operations one after the other, from an instant on.
func sequential(from int, ops ...Op) []Op {
	for i := range ops {
		ops[i] = between(clock.Instant(from+10*i), clock.Instant(from+10*i+5), ops[i])
	}
	return ops
}

var nameCases = []struct {
	name string
	bad  bool
	ops  []Op
}{
	{"everything once", false, sequential(0,
		mkdir("a"), failed(mkdir("a"), quarry.Exists), create("a/x"), failed(create("a/x"), quarry.Exists), failed(create("b/x"), quarry.NotFound),
		failed(create("a/x/y"), quarry.NotDir), list("", "a/"), list("a", "x"), failed(list("b"), quarry.NotFound), failed(list("a/x"), quarry.NotDir),
		statDir("a", 1), statFile("a/x"), failed(name(KindStat, "b"), quarry.NotFound), failed(name(KindStat, "a/x/y"), quarry.NotDir),
		withValue(7, name(KindPut, "a/x")), withValue(7, name(KindRead, "a/x")), failed(name(KindPut, "a"), quarry.IsDir),
		failed(name(KindRead, "a"), quarry.IsDir), rename("a/x", "b"), withValue(7, name(KindRead, "b")), list("a"), create("c"),
		rename("b", "c"), withValue(7, name(KindRead, "c")), failed(rename("b", "c"), quarry.NotFound), failed(rename("c", "a"), quarry.IsDir),
		failed(rename("a", "c"), quarry.NotDir), failed(rename("a", "a/x"), quarry.Invalid), rename("a", "a"), mkdir("b"),
		failed(rename("a", "b"), quarry.Exists), rename("a", "b/y"), list("b", "y/"), failed(remove("b"), quarry.NotEmpty),
		remove("b/y"), remove("b"), remove("c"), failed(remove("c"), quarry.NotFound), list(""),
	)},
	{"removed, replaced and brought back", false, sequential(0, mkdir("a"), withValue(7, name(KindPut, "a/x")), remove("a/x"), undelete("b", 7),
		withValue(7, name(KindRead, "b")), withValue(8, name(KindPut, "b")), failed(undelete("b", 7), quarry.Exists), failed(undelete("c/x", 7), quarry.NotFound),
		undelete("a/x", 7), rename("b", "a/x"), undelete("b", 7), withValue(8, name(KindRead, "a/x")), failed(undelete("c", 7), quarry.NotFound),
		failed(undelete("b", 7), quarry.Exists), removeNow("b"), failed(undelete("b", 7), quarry.NotFound),
		withValue(9, name(KindPut, "b")), remove("b"), undelete("b", 9), list("", "a/", "b"))},
	{"brought back before it was removed", true, sequential(0, withValue(7, name(KindPut, "a")), undelete("b", 7))},
	{"brought back twice", true, sequential(0, withValue(7, name(KindPut, "a")), remove("a"), undelete("a", 7), undelete("b", 7))},
	{"brought back over another name", true, sequential(0, withValue(7, name(KindPut, "a")), remove("a"), create("a"), undelete("a", 7))},
	{"brought back with other bytes", true, sequential(0, withValue(7, name(KindPut, "a")), remove("a"), undelete("a", 7), withValue(8, name(KindRead, "a")))},
	{"brought back and not there", true, sequential(0, withValue(7, name(KindPut, "a")), remove("a"), undelete("a", 7), list(""))},
	{"brought back after a removal for good", true, sequential(0, withValue(7, name(KindPut, "a")), removeNow("a"), undelete("a", 7))},
	{"lost from the trash", true, sequential(0, withValue(7, name(KindPut, "a")), create("c"), remove("a"), failed(undelete("a", 7), quarry.NotFound))},
	{"lost from the trash in the end", false, []Op{
		between(0, 1, withValue(7, name(KindPut, "a"))), between(2, 3, remove("a")), between(80, 95, failed(undelete("a", 7), quarry.NotFound)),
	}},
	{"an undelete that is not known to have happened has", false, []Op{
		between(0, 1, withValue(7, name(KindPut, "a"))), between(2, 3, remove("a")), between(4, 5, unknown(undelete("a", 7))),
		between(6, 7, failed(undelete("b", 7), quarry.NotFound)), between(8, 9, withValue(7, name(KindRead, "a"))),
	}},
	{"modes", false, sequential(0, mkdir("a"), withMode(0o755, statDir("a", 0)), chmod("a", 0o700), withMode(0o700, statDir("a", 0)),
		withValue(7, name(KindPut, "a/x")), withMode(0o644, statFile("a/x")), chmod("a/x", 1), chmod("a/x", 1), rename("a/x", "b"), withMode(1, statFile("b")),
		remove("b"), undelete("c", 7), withMode(1, statFile("c")), withValue(8, name(KindPut, "c")), withMode(0o644, statFile("c")), create("b"),
		rename("a", "d"), withMode(0o700, statDir("d", 0)), failed(chmod("a", 1), quarry.NotFound), failed(chmod("b/x", 1), quarry.NotDir))},
	{"a mode that was set is not shown", true, sequential(0, mkdir("a"), chmod("a", 1), withMode(0o755, statDir("a", 0)))},
	{"a mode of before is shown", true, sequential(0, create("a"), chmod("a", 1), chmod("a", 2), withMode(1, statFile("a")))},
	{"a mode that nobody has set", true, sequential(0, create("a"), withMode(1, statFile("a")))},
	{"a mode lost in the trash", true, sequential(0, withValue(7, name(KindPut, "a")), chmod("a", 1), remove("a"), undelete("a", 7), withMode(0o644, statFile("a")))},
	{"a mode lost by a rename", true, sequential(0, mkdir("a"), chmod("a", 1), rename("a", "b"), withMode(0o755, statDir("b", 0)))},
	{"a mode that a refused change has set", true, sequential(0, create("a"), failed(chmod("a", 1), quarry.NoSpace), withMode(1, statFile("a")))},
	{"a mode set of what was not there", true, sequential(0, chmod("a", 1))},
	{"a mode that may have been set", false, []Op{between(0, 1, create("a")), between(2, 3, unknown(chmod("a", 1))), between(4, 5, withMode(0o644, statFile("a"))),
		between(6, 7, withMode(1, statFile("a")))}},
	{"a mode that may have been set, and was taken back", true, []Op{between(0, 1, create("a")), between(2, 3, unknown(chmod("a", 1))), between(4, 5, withMode(1, statFile("a"))),
		between(6, 7, withMode(0o644, statFile("a")))}},
	{"a file was found, and changed when it had another name", false, []Op{between(0, 1, create("a")), between(2, 9, chmod("a", 1)), between(3, 4, rename("a", "b")),
		between(5, 6, withMode(0o644, statFile("b"))), between(10, 11, withMode(1, statFile("b")))}},
	{"a file was found, and changed when it came back", false, []Op{between(0, 1, withValue(7, name(KindPut, "a"))), between(2, 19, chmod("a", 1)), between(3, 4, remove("a")),
		between(5, 6, undelete("b", 7)), between(7, 8, withMode(0o644, statFile("b"))), between(20, 21, withMode(1, statFile("b")))}},
	{"a directory that was removed is there", true, sequential(0, mkdir("a"), remove("a"), statDir("a", 0))},
	{"a directory that was made is missing", true, sequential(0, mkdir("a"), failed(name(KindStat, "a"), quarry.NotFound))},
	{"made twice", true, sequential(0, mkdir("a"), mkdir("a"))},
	{"removed twice", true, sequential(0, create("a"), remove("a"), remove("a"))},
	{"refused though nothing is there", true, sequential(0, failed(create("a"), quarry.Exists))},
	{"a directory with entries was removed", true, sequential(0, mkdir("a"), create("a/x"), remove("a"))},
	{"an empty directory was not removed", true, sequential(0, mkdir("a"), failed(remove("a"), quarry.NotEmpty))},
	{"a list lacks a name", true, sequential(0, create("a"), create("b"), list("", "a"))},
	{"a list has a name too many", true, sequential(0, create("a"), list("", "a", "b"))},
	{"a file for a directory", true, sequential(0, create("a"), list("", "a/"))},
	{"the number of entries is wrong", true, sequential(0, mkdir("a"), create("a/x"), statDir("a", 2))},
	{"a rename leaves the old name", true, sequential(0, create("a"), rename("a", "b"), list("", "a", "b"))},
	{"a rename is lost", true, sequential(0, create("a"), rename("a", "b"), list("", "a"))},
	{"a rename loses the bytes", true, sequential(0, withValue(7, name(KindPut, "a")), rename("a", "b"), withValue(0, name(KindRead, "b")))},
	{"a rename did not replace", true, sequential(0, withValue(7, name(KindPut, "a")), withValue(8, name(KindPut, "b")), rename("a", "b"),
		withValue(8, name(KindRead, "b")))},
	{"a rename moved a directory without what is in it", true, sequential(0, mkdir("a"), create("a/x"), rename("a", "b"), list("b"))},
	{"a directory is in itself", true, sequential(0, mkdir("a"), rename("a", "a/x"))},
	{"a directory took the place of a file", true, sequential(0, mkdir("a"), create("b"), rename("a", "b"))},
	{"a file has become a directory for one who removes it", true, sequential(0, create("a"), failed(remove("a"), quarry.NotDir))},
	{"a stale list", true, []Op{between(0, 5, create("a")), between(6, 9, list(""))}},
	{"a list during the create, without it", false, []Op{between(0, 5, create("a")), between(5, 9, list(""))}},
	{"a list during the create, with it", false, []Op{between(0, 5, create("a")), between(1, 2, list("", "a"))}},
	{"two lists during the create, with and then without it", true, []Op{
		between(0, 9, create("a")), between(1, 2, list("", "a")), between(3, 4, list("")),
	}},
	{"an unknown create shows late", false, []Op{
		between(0, 5, unknown(create("a"))), between(10, 15, list("")), between(20, 25, list("", "a")),
	}},
	{"an unknown create never shows", false, []Op{between(0, 5, unknown(create("a"))), between(10, 15, list(""))}},
	{"an unknown create shows and is undone", true, []Op{
		between(0, 5, unknown(create("a"))), between(10, 15, list("", "a")), between(20, 25, list("")),
	}},
	{"an unknown create happens twice", true, []Op{
		between(0, 5, unknown(create("a"))), between(10, 15, list("", "a")), between(16, 18, remove("a")), between(20, 25, list("", "a")),
	}},
	{"a failed create shows", true, sequential(0, failed(create("a"), quarry.Unavailable), list("", "a"))},
	{"an unknown rename shows half", true, []Op{
		between(0, 1, create("a")), between(2, 5, unknown(rename("a", "b"))), between(10, 15, list("", "a", "b")),
	}},
	// A client finds a directory first and acts in it whatever it is called by then.
	{"a create follows its directory", false, []Op{
		between(0, 1, mkdir("a")), between(2, 20, create("a/x")), between(3, 4, rename("a", "b")), between(21, 22, list("b", "x")),
	}},
	{"a create follows its directory to where it was before the call", true, []Op{
		between(0, 1, mkdir("a")), between(3, 4, rename("a", "b")), between(5, 20, create("a/x")), between(21, 22, list("b", "x")),
	}},
	{"a create in a directory that was removed meanwhile", true, []Op{
		between(0, 1, mkdir("a")), between(2, 20, create("a/x")), between(3, 4, remove("a")), between(21, 22, list("")),
	}},
	{"a create in a directory that is removed and made anew meanwhile", false, []Op{
		between(0, 1, mkdir("a")), between(2, 20, failed(create("a/x"), quarry.NotFound)), between(3, 4, rename("a", "b")),
		between(5, 6, mkdir("a")), between(7, 8, remove("b")),
	}},
	{"a create in a directory that was there all the time", true, []Op{
		between(0, 1, mkdir("a")), between(2, 20, failed(create("a/x"), quarry.NotFound)), between(3, 4, mkdir("b")),
	}},
	{"an unknown create in a directory that is renamed", false, []Op{
		between(0, 1, mkdir("a")), between(2, 3, unknown(create("a/x"))), between(4, 5, rename("a", "b")), between(6, 7, list("b")),
		between(8, 9, list("b", "x")),
	}},
	{"a remove that meets another thing when it asks again", false, []Op{
		between(0, 1, mkdir("a")), between(2, 20, failed(remove("a"), quarry.NotDir)), between(3, 4, remove("a")), between(5, 6, create("a")),
	}},
	{"a read whose file was replaced says nothing", false, sequential(0, withValue(7, name(KindPut, "a")),
		func() Op { op := failed(name(KindRead, "a"), quarry.NotFound); op.Bad = goneText; return op }())},
	{"at the end the bytes of a file are gone", true, sequential(0, withValue(7, name(KindPut, "a")),
		func() Op {
			op := failed(name(KindRead, "a"), quarry.NotFound)
			op.Bad, op.Final = goneText, true
			return op
		}())},
	{"a file has torn bytes", true, sequential(0, withValue(7, name(KindPut, "a")),
		func() Op { op := withValue(7, name(KindRead, "a")); op.Bad = "bytes that do not match"; return op }())},
}

func TestNames(t *testing.T) {
	for _, test := range nameCases {
		t.Run(test.name, func(t *testing.T) {
			ops := slices.Clone(test.ops)
			slices.SortStableFunc(ops, func(a, b Op) int { return int(a.Call - b.Call) })
			v, inconclusive := checkNames(testTree, ops, usual)
			if (v != nil) != test.bad || inconclusive != "" {
				t.Fatalf("violation %v, inconclusive %q", v, inconclusive)
			}
			if v == nil {
				return
			}
			if v.Text == "" || len(v.Ops) == 0 || len(v.Ops) > len(ops) {
				t.Errorf("it shows %d of %d operations: %v", len(v.Ops), len(ops), v)
			}
			// What is shown is evidence by itself.
			if again, _ := checkNames(testTree, v.Ops, usual); again == nil {
				t.Errorf("the operations shown can be explained: %v", v)
			}
		})
	}
}

// The search gives up in the end, and says so.
func TestNamesInconclusive(t *testing.T) {
	// Many creates whose outcome is unknown, and a list that none of their orders explains.
	var ops []Op
	for _, a := range strings.Split("abcdefghijklmnopqrstuv", "") {
		ops = append(ops, between(0, 5, unknown(create(a))))
	}
	ops = append(ops, between(10, 15, list("", "z")))
	v, inconclusive := checkNames(testTree, ops, effort{steps: 10_000, time: time.Minute})
	if v != nil || inconclusive == "" {
		t.Errorf("violation %v, inconclusive %q", v, inconclusive)
	}
}
