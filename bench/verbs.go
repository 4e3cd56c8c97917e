package bench

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// Verb is something that can be measured.
type Verb struct {
	// Name is what it is called, About what is measured, Bare what it is compared with, or "".
	Name, About, Bare string
	// Settings are the command line's names of the fields of Config that it heeds, besides Dir and
	// Runs, which all of them do.
	Settings []string

	clients  []int // defaults, as what follows
	duration time.Duration
	files    int
	load     func(*run) load                               // what clients do, measured at every point of the lists; or
	other    func(*run, context.Context) ([]Result, error) // what else is measured, at one point
}

// Verbs are what Run can measure.
var Verbs []Verb

// set up here, because what is measured reads the table itself
func init() {
	verb := func(v Verb, name, about, bare, settings string) {
		v.Name, v.About, v.Bare, v.Settings = name, about, bare, strings.Fields(settings)
		Verbs = append(Verbs, v)
	}
	verb(Verb{load: (*run).write}, "write", "put of streams, three replicas",
		"one process writes three local copies", "clients servers masters bytes")
	verb(Verb{load: (*run).read}, "read", "sequential reads, warm, or --cold; or --local, on a chunk server's machine",
		"a framed copy over TCP by sendfile; pread", "clients servers masters bytes cold local")
	verb(Verb{load: (*run).random}, "random", "reads of --record bytes at random places, warm, or --cold",
		"the framed copy, of as many bytes there", "clients servers masters bytes operations record cold")
	verb(Verb{load: (*run).append, files: 1}, "append", "durable records to one file, or to --files",
		"the same cluster with batches of one", "clients servers masters operations record files")
	verb(Verb{load: (*run).small}, "small", "put, then read, of files of 1 to 64 KiB",
		"three local copies, synced; one of them, read", "clients servers masters operations")
	verb(Verb{load: (*run).mixed, duration: 3 * time.Second}, "mixed", "as many readers, writers and appenders, at once",
		"each kind alone", "clients servers masters bytes record duration")
	verb(Verb{other: (*run).meta}, "meta", "create, stat, list, move, remove of files, with --shards shards; a move is between two shards",
		"a cluster with one shard", "clients operations shards")
	verb(Verb{other: (*run).limits, clients: []int{64}}, "limits", "creates in one directory, appends to one file, moves of directories; --files files at one master",
		"a directory each, eight files, moves of files", "clients operations record shards files duration")
	verb(Verb{other: (*run).clients}, "clients", "--connections clients that look names up, --writers that make files, none sharing a connection: rates, waits, memory of each master",
		"", "connections writers duration shards")
	verb(Verb{other: (*run).failover}, "failover", "from SIGKILL of the master that leads most groups, of the primary of an open chunk, or of both (--kill), to the first accepted write: in each group, in a file of each shard (--runs 20)",
		"", "kill record shards")
}

// Takes reports whether the verb heeds a setting.
func (v *Verb) Takes(setting string) bool { return slices.Contains(v.Settings, setting) }

// Names lists what can be measured, in the order of Verbs.
func Names() (out []string) {
	for _, v := range Verbs {
		out = append(out, v.Name)
	}
	return out
}

// Find returns a verb, or nil if there is none of that name.
func Find(name string) *Verb {
	if i := slices.IndexFunc(Verbs, func(v Verb) bool { return v.Name == name }); i >= 0 {
		return &Verbs[i]
	}
	return nil
}

// Run measures one verb and returns its figures, of which there are none when it fails or ctx ends
// early. What it has started is ended, and what it has made is removed, in any case. An error of
// kind Invalid says what about the verb or c cannot be measured.
func Run(ctx context.Context, verb string, c Config) (out []Result, err error) {
	v := Find(verb)
	if v == nil {
		return nil, quarry.Errorf("bench", quarry.Invalid, verb, "it cannot be measured, only %s", strings.Join(Names(), ", "))
	}
	if err := c.check(v); err != nil {
		return nil, err
	}
	c.withDefaults(v)
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, quarry.Errorf("bench", quarry.Invalid, c.Dir, "the folder cannot be made: %w", err)
	}
	b := &run{Config: c, verb: v, clock: clock.System()}
	defer func() { err = errors.Join(err, b.close()) }()
	if v.load != nil {
		return b.measure(ctx)
	}
	return v.other(b, ctx)
}

// run is one measurement.
type run struct {
	Config
	verb  *Verb
	clock clock.Clock
	scene *scene // where a load works at present, or nil
}

// callers is how many clients a verb has that is measured at one point.
func (c *Config) callers() int { return c.Clients[0] }
