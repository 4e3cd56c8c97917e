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

	mode        []string // the settings that Find has found in the name
	clients     []int    // defaults, as what follows
	servers     []int
	duration    time.Duration
	files       int
	connections int
	load        func(*run) load                               // what clients do, measured at every point of the lists
	other       func(*run, context.Context) ([]Result, error) // what else is measured, at one point; load, if there is one, is for its workers
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
		"one process writes three local copies", "clients processes servers masters bytes")
	verb(Verb{load: (*run).read}, "read", "sequential reads, warm, or --cold; or --local, on a chunk server's machine",
		"a framed copy over TCP by sendfile; pread", "clients processes servers masters bytes cold local")
	verb(Verb{load: (*run).random}, "random", "reads of --record bytes at random places, warm, or --cold",
		"the framed copy, of as many bytes there", "clients processes servers masters bytes operations record cold")
	verb(Verb{load: (*run).append, files: 1}, "append", "durable records to one file, or to --files",
		"the same cluster with batches of one", "clients processes servers masters operations record files")
	verb(Verb{load: (*run).small}, "small", "put, then read, of files of 1 to 64 KiB",
		"three local copies, synced; one of them, read", "clients processes servers masters operations")
	verb(Verb{load: (*run).mixed, duration: 3 * time.Second}, "mixed", "as many readers, writers and appenders, at once",
		"each kind alone", "clients processes servers masters bytes record duration")
	verb(Verb{other: (*run).beside, load: (*run).crowd, clients: []int{2}, servers: []int{1}, duration: 3 * time.Second}, "beside",
		"small reads and appends of --record bytes beside --clients bulk readers of the same chunk server, in another process and in the same one",
		"alone; beside as many that only compute, or copy over TCP", "clients servers bytes record duration")
	verb(Verb{other: (*run).meta}, "meta", "create, stat, list, move, remove of files, with --shards shards; a move is between two shards",
		"a cluster with one shard", "clients operations shards")
	verb(Verb{other: (*run).limits, clients: []int{64}}, "limits", "creates in one directory, appends to one file, moves of directories; --files files at one master",
		"a directory each, eight files, moves of files", "clients operations record shards files duration")
	verb(Verb{other: (*run).clients}, "clients", "--connections clients that look names up, --writers that make files, none sharing a connection: rates, waits, memory of each master",
		"", "connections writers duration shards")
	verb(Verb{other: (*run).footprint, connections: 1000, duration: 10 * time.Second}, "memory", "of a client that puts and reads a file of --bytes, and of a chunk server with --connections clients, of which 100 then work",
		"", "bytes connections duration")
	verb(Verb{other: (*run).failover}, "failover", "from SIGKILL of the master that leads most groups, of the primary of an open chunk, or of both, or from when nobody hears that primary any more (--kill), to the first accepted write: in each group, in a file of each shard (--runs 20)",
		"", "kill record shards")
	verb(Verb{other: (*run).recovery, clients: []int{4}, servers: []int{4}, duration: 5 * time.Second}, "recovery",
		"a chunk server is lost for good while --clients read: until every chunk has its copies again, the rate of copying, the reads, and small reads and appends beside",
		"a local copy, synced; the reads before; small operations alone", "clients servers bytes record shards duration dead-after")
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

// modes are the settings that a name can have behind it, with what they set.
var modes = map[string]func(c *Config){
	"cold":  func(c *Config) { c.Cold = true },
	"local": func(c *Config) { c.Local = true },
}

// Find returns a verb, or nil if there is none of that name. Settings without a value can stand in the
// name, in the order of the alphabet: read-cold is read with Cold set, so that one command can measure
// both.
func Find(name string) *Verb {
	base, mode := strings.Split(name, "-")[0], strings.Split(name, "-")[1:]
	i := slices.IndexFunc(Verbs, func(v Verb) bool { return v.Name == base })
	if i < 0 {
		return nil
	}
	v := Verbs[i]
	v.mode = mode
	for k, m := range mode {
		if modes[m] == nil || !v.Takes(m) || k > 0 && m <= mode[k-1] {
			return nil
		}
	}
	return &v
}

// Run measures one verb and returns its figures, of which there are none when it fails or ctx ends
// early. What it has started is ended, and what it has made is removed, in any case. An error of
// kind Invalid says what about the verb or c cannot be measured. What the verb does not heed of c is
// as if it were not set.
func Run(ctx context.Context, verb string, c Config) (out []Result, err error) {
	v := Find(verb)
	if v == nil {
		return nil, quarry.Errorf("bench", quarry.Invalid, verb, "it cannot be measured, only %s", strings.Join(Names(), ", "))
	}
	for _, m := range v.mode {
		modes[m](&c)
	}
	c.heed(v)
	if err := c.check(v); err != nil {
		return nil, err
	}
	c.withDefaults(v)
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, quarry.Errorf("bench", quarry.Invalid, c.Dir, "the folder cannot be made: %w", err)
	}
	b := &run{Config: c, verb: v, clock: clock.System()}
	defer func() { err = errors.Join(err, b.close()) }()
	if v.other != nil {
		return v.other(b, ctx)
	}
	return b.measure(ctx)
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
