package bench

import (
	"log/slog"
	"slices"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/cluster"
)

// Config says what is measured. What a list names is measured point by point, in turn, within
// each run. The zero value of everything but Dir is a default.
type Config struct {
	// Dir is where the embedded clusters and the bare programs keep their files; it is on the
	// disk that is measured, and emptied afterwards.
	Dir string
	// Masters are those of a running cluster, which is measured in the place of an embedded one, in
	// a directory of its own that is removed in the end. Key is its secret, if it has one.
	Masters []string
	Key     []byte `json:"-"`
	// Clients is how many streams, appenders or callers there are. Default: 1; 64 for limits.
	Clients []int
	// Servers is how many chunk servers the embedded cluster has, 1 to 32. Default: 3, so that every
	// replica set is the same.
	Servers []int
	// RecordBytes is the size of a record, or of a random read, 1 to quarry.RecordBytesMax. Default
	// 4 KiB.
	RecordBytes []int
	// Runs is how many interleaved runs are measured. Default 7.
	Runs int
	// Bytes is how much each stream writes or reads in a run. Default 256 MiB.
	Bytes int64
	// Operations is how many operations a run has, of all clients together. Default 2,000 for each
	// client, at most 20,000.
	Operations int
	// Local has read measure a client on the machine of the chunk servers, which reads from their
	// files. Default: it reads over the network, as one elsewhere would.
	Local bool
	// Cold has nothing of what is read in the system's page cache when a run begins.
	Cold bool
	// Shards is how many shards the clusters of processes have, beside the root group. Default 4.
	Shards int
	// Kill is what failover kills: "master" (the default), "server" or "both".
	Kill string
	// Connections is how many clients clients has that look names up, each with connections of its
	// own; Writers is how many there are besides that make files. Default 2,000 and 200.
	Connections, Writers int
	// Duration is how long clients and mixed work. Default 20 s and 3 s.
	Duration time.Duration
	// Files is how many files limits makes, or over how many append spreads its records. Default
	// 100,000, and 1.
	Files int
	// Log takes the servers' warnings. Default: nobody does.
	Log *slog.Logger `json:"-"`
	// Progress is told what is being measured.
	Progress func(what string) `json:"-"`
}

// serversMax and clientsMax bound what one machine is asked to hold, and pointsMax what is measured
// in one run.
const (
	serversMax = 32
	clientsMax = 4096
	pointsMax  = 64
)

// check refuses what cannot be measured.
func (c *Config) check(v *Verb) error {
	refuse := func(format string, args ...any) error {
		return quarry.Errorf("bench "+v.Name, quarry.Invalid, "", format, args...)
	}
	within := func(list []int, least, most int) bool {
		return len(list) <= pointsMax && !slices.ContainsFunc(list, func(n int) bool { return n < least || n > most })
	}
	switch {
	case !within(c.Clients, 1, clientsMax):
		return refuse("the numbers of clients are %v: there can be 1 to %d, and at most %d numbers", c.Clients, clientsMax, pointsMax)
	case !within(c.Servers, 1, serversMax):
		return refuse("the numbers of chunk servers are %v: there can be 1 to %d, and at most %d numbers", c.Servers, serversMax, pointsMax)
	case !within(c.RecordBytes, 1, quarry.RecordBytesMax):
		return refuse("the sizes of a record are %v: they can be 1 to %d bytes, and at most %d sizes", c.RecordBytes, quarry.RecordBytesMax, pointsMax)
	case v.load == nil && max(len(c.Clients), len(c.Servers), len(c.RecordBytes)) > 1:
		return refuse("it is measured at one point, not at a list of them")
	case c.Runs < 0 || c.Bytes < 0 || c.Operations < 0 || c.Duration < 0:
		return refuse("a number is less than 0")
	case len(c.Masters) > 0 && !v.Takes("masters"):
		return refuse("it starts a cluster of its own, and takes no masters")
	case len(c.Masters) > 0 && len(c.Servers) > 0:
		return refuse("a running cluster has the chunk servers that it has: leave out how many, or the masters")
	case len(c.Masters) > 0 && c.Cold:
		return refuse("the caches of a running cluster's machines cannot be emptied from here: leave out the masters, or read warm")
	}
	return nil
}

func (c *Config) withDefaults(v *Verb) {
	number(&c.Runs, 7)
	number(&c.Shards, cluster.DefaultShards)
	number(&c.Connections, 2000)
	number(&c.Writers, 200)
	number(&c.Files, v.files, 100_000)
	number(&c.Bytes, 256<<20)
	number(&c.Duration, v.duration, 20*time.Second)
	list(&c.Clients, v.clients, []int{1})
	list(&c.Servers, nil, []int{3})
	list(&c.RecordBytes, nil, []int{4 << 10})
	if c.Kill == "" {
		c.Kill = killMaster
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
}

// operations is how many operations a run of so many clients has.
func (c *Config) operations(clients int) int {
	if c.Operations > 0 {
		return max(c.Operations, clients)
	}
	return min(2000*clients, 20000)
}

// number sets what is 0 to the first default that is not.
func number[T int | int64 | time.Duration](v *T, defaults ...T) {
	for _, d := range defaults {
		if *v == 0 {
			*v = d
		}
	}
}

// list sets what is empty to the first default that is not, and puts it in order.
func list(v *[]int, defaults ...[]int) {
	for _, d := range defaults {
		if len(*v) == 0 {
			*v = d
		}
	}
	*v = slices.Compact(slices.Sorted(slices.Values(*v)))
}
