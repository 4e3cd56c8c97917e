package transfer

import (
	"context"
	"fmt"
	"strings"

	"github.com/quarryfs/quarry"
)

// Pair is a source and what it becomes.
type Pair struct {
	From Entry
	To   string
}

// Targets says what each of the sources of a command becomes, by the rule of cp: if the target
// ends with "/" or is a directory, each becomes an entry of it that keeps its last name;
// otherwise there is one source, and the target is what it becomes. Whether a source
// ends with "/" does not matter.
func Targets(ctx context.Context, from Tree, sources []string, to Tree, target string) ([]Pair, error) {
	entries := make([]Entry, len(sources))
	for i, s := range sources {
		e, err := from.Stat(ctx, s)
		if err != nil {
			return nil, err
		}
		entries[i] = e
	}
	into := strings.HasSuffix(target, "/")
	if !into {
		e, err := to.Stat(ctx, target)
		if kind := quarry.KindOf(err); err != nil && kind != quarry.NotFound {
			return nil, err
		}
		into = err == nil && e.Kind == Dir
	}
	if !into && len(sources) > 1 {
		return nil, quarry.Errorf("copy", quarry.NotDir, target, "%d sources need a directory as target; end it with \"/\"", len(sources))
	}
	pairs := make([]Pair, len(sources))
	names := map[string]string{}
	for i, e := range entries {
		pairs[i] = Pair{From: e, To: target}
		if !into {
			continue
		}
		name := from.Name(sources[i])
		if name == "" {
			return nil, quarry.Errorf("copy", quarry.Invalid, sources[i], "it has no name of its own; give the whole target, without \"/\" at its end")
		}
		if other, twice := names[name]; twice {
			return nil, quarry.Errorf("copy", quarry.Exists, sources[i], "%s has the same name, both would become %s", other, to.Join(target, name))
		}
		names[name] = sources[i]
		pairs[i].To = to.Join(target, name)
	}
	return pairs, nil
}

// inside reports whether a path of a cluster is another one or below it.
func inside(path, dir string) bool {
	path, dir = Clean(path), Clean(dir)
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// checkApart refuses a copy within a cluster that would meet itself.
func checkApart(from, to Tree, source, target string) error {
	if _, ok := from.(Quarry); !ok {
		return nil
	}
	if _, ok := to.(Quarry); !ok {
		return nil
	}
	if inside(target, source) {
		return quarry.Errorf("copy", quarry.Invalid, source, "the target %s is %s", target, within(source, target))
	}
	return nil
}

func within(source, target string) string {
	if Clean(source) == Clean(target) {
		return "the same"
	}
	return fmt.Sprintf("inside of %s", source)
}
