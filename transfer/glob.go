package transfer

import (
	"context"
	"path"
	"strings"

	"github.com/quarryfs/quarry"
)

// globMax is the most paths that one pattern may mean.
const globMax = 1 << 20

// HasMeta reports whether a path may be a pattern.
func HasMeta(p string) bool { return strings.ContainsAny(p, `*?[\`) }

// anyMax is the most parts ** that a pattern may have: with each more, directories are gone through
// more often.
const anyMax = 4

// Expand replaces the patterns among paths of a cluster by the paths that they mean; see [Glob].
func Expand(ctx context.Context, q Quarry, paths []string) ([]string, error) {
	var out []string
	for _, p := range paths {
		found, err := Glob(ctx, q, p)
		if err != nil {
			return nil, err
		}
		if out = append(out, found...); len(out) > globMax {
			return nil, tooMany(p)
		}
	}
	return out, nil
}

func tooMany(pattern string) error {
	return quarry.Errorf("glob", quarry.TooLarge, pattern, "it means more than %d paths", globMax)
}

// Glob returns the paths of a cluster that a pattern means, in the order of their bytes, directory
// by directory. A path that is there as it is written is that path, also with "*" in its name; one
// without *, ?, [ and \ is not looked for at all. In a pattern, * stands for any bytes of a name, ?
// for one character, [a-c] and [!a-c] for one of a set or outside of it, \ takes the meaning of the
// character behind it, and a part ** stands for any number of directories. Names that begin with a
// dot are meant only by patterns that do. NotFound: nothing is meant.
func Glob(ctx context.Context, q Quarry, pattern string) ([]string, error) {
	if !HasMeta(pattern) {
		return []string{pattern}, nil
	}
	switch _, err := q.Stat(ctx, pattern); quarry.KindOf(err) {
	case 0:
		return []string{pattern}, nil
	case quarry.NotFound, quarry.NotDir, quarry.Invalid, quarry.TooLarge:
	default:
		return nil, err
	}
	parts, err := patternParts(pattern)
	if err != nil {
		return nil, err
	}
	g := &glob{q: q, pattern: pattern, seen: map[string]bool{}}
	if err := g.match(ctx, "/", parts); err != nil {
		return nil, err
	}
	if len(g.out) == 0 {
		return nil, quarry.Errorf("glob", quarry.NotFound, pattern, "no path matches the pattern")
	}
	return g.out, nil
}

// patternParts checks a pattern and returns its parts.
func patternParts(pattern string) ([]string, error) {
	var parts []string
	many := 0
	for p := range strings.SplitSeq(strings.Trim(Clean(pattern), "/"), "/") {
		if p == "**" {
			if n := len(parts); n > 0 && parts[n-1] == p {
				continue // two of them mean what one does
			}
			many++
		}
		part := strings.ReplaceAll(p, "[!", "[^")
		if _, err := path.Match(part, ""); err != nil {
			return nil, quarry.Errorf("glob", quarry.Invalid, pattern, "%q is no pattern", p)
		}
		parts = append(parts, part)
	}
	if len(parts) > quarry.PathPartsMax || many > anyMax {
		return nil, quarry.Errorf("glob", quarry.TooLarge, pattern, "a pattern has at most %d parts and %d times **", quarry.PathPartsMax, anyMax)
	}
	return parts, nil
}

// glob is a search for what a pattern means.
type glob struct {
	q       Quarry
	pattern string
	out     []string
	seen    map[string]bool // with ** a path may be met twice
}

func (g *glob) add(p string) error {
	if g.seen[p] {
		return nil
	}
	if g.seen[p] = true; len(g.seen) > globMax {
		return tooMany(g.pattern)
	}
	g.out = append(g.out, p)
	return nil
}

// match finds what the parts of a pattern mean in a directory.
func (g *glob) match(ctx context.Context, dir string, parts []string) error {
	part, rest := parts[0], parts[1:]
	switch {
	case part == "**":
		return g.any(ctx, dir, rest)
	case !HasMeta(part):
		return g.literal(ctx, path.Join(dir, part), rest)
	}
	for e, err := range g.q.List(ctx, dir) {
		if err != nil {
			return gone(err)
		}
		if hidden(e.Name) && !strings.HasPrefix(part, ".") {
			continue
		}
		if ok, _ := path.Match(part, e.Name); ok {
			if err := g.found(ctx, e, rest); err != nil {
				return err
			}
		}
	}
	return nil
}

// literal goes on with a name that is no pattern.
func (g *glob) literal(ctx context.Context, p string, rest []string) error {
	e, err := g.q.Stat(ctx, p)
	if err != nil {
		return gone(err)
	}
	return g.found(ctx, e, rest)
}

// found goes on with an entry that a part of the pattern matches.
func (g *glob) found(ctx context.Context, e Entry, rest []string) error {
	switch {
	case len(rest) == 0:
		return g.add(e.Path)
	case e.Kind == Dir:
		return g.match(ctx, e.Path, rest)
	}
	return nil
}

// any finds what the rest of a pattern means in a directory, or anywhere below it.
func (g *glob) any(ctx context.Context, dir string, rest []string) error {
	if len(rest) > 0 {
		if err := g.match(ctx, dir, rest); err != nil {
			return err
		}
	}
	for e, err := range g.q.List(ctx, dir) {
		switch {
		case err != nil:
			return gone(err)
		case hidden(e.Name):
			continue
		}
		if len(rest) == 0 {
			if err := g.add(e.Path); err != nil {
				return err
			}
		}
		if e.Kind == Dir {
			if err := g.any(ctx, e.Path, rest); err != nil {
				return err
			}
		}
	}
	return nil
}

// gone takes what is not there, or not any more, for nothing that the pattern means.
func gone(err error) error {
	switch quarry.KindOf(err) {
	case quarry.NotFound, quarry.NotDir:
		return nil
	}
	return err
}

func hidden(name string) bool { return strings.HasPrefix(name, ".") }
