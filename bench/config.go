package bench

import (
	"log/slog"
	"slices"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/cluster"
	"github.com/quarryfs/quarry/rpc"
	"github.com/quarryfs/quarry/rpc/secure"
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
	// TLS puts an embedded cluster under TLS, and tells how a running one that is under it is reached.
	TLS secure.Files
	// Clients is how many streams, appenders or callers there are. Default: 1; 64 for
	// limits, 4 for recovery, 2 for beside.
	Clients []int
	// Processes is in how many processes the clients of a load are, 1 to 64. Default: in this one, with
	// the cluster; 2 and more are processes of their own, and there the bare programs stay here.
	Processes int
	// Servers is how many chunk servers the embedded cluster has, 1 to 32. Default: 3, so that every
	// replica set is the same; 4 for recovery, 1 for beside.
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
	// Kill is what failover kills: "master" (the default), "server" or "both"; or "mute": a chunk server
	// goes on, hears everybody, and is heard by nobody.
	Kill string
	// DeadAfter is after how long a silence the masters of recovery copy a chunk server's replicas.
	// Default: as masters do by themselves.
	DeadAfter time.Duration
	// Connections is how many clients clients has that look names up, each with connections of its
	// own; Writers is how many there are besides that make files. Default 2,000 and 200.
	Connections, Writers int
	// Duration is how long clients, mixed and beside work, and recovery before the loss. Default 20 s, 3 s,
	// 3 s and 5 s.
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

// heed unsets what a verb does not heed. Masters stay, for check to refuse them.
func (c *Config) heed(v *Verb) {
	for setting, unset := range map[string]func(){
		"clients": func() { c.Clients = nil }, "processes": func() { c.Processes = 0 }, "servers": func() { c.Servers = nil }, "record": func() { c.RecordBytes = nil },
		"bytes": func() { c.Bytes = 0 }, "operations": func() { c.Operations = 0 }, "duration": func() { c.Duration = 0 },
		"local": func() { c.Local = false }, "cold": func() { c.Cold = false }, "shards": func() { c.Shards = 0 }, "kill": func() { c.Kill = "" },
		"dead-after": func() { c.DeadAfter = 0 }, "connections": func() { c.Connections = 0 }, "writers": func() { c.Writers = 0 }, "files": func() { c.Files = 0 },
	} {
		if !v.Takes(setting) {
			unset()
		}
	}
}

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
	case v.other != nil && max(len(c.Clients), len(c.Servers), len(c.RecordBytes)) > 1:
		return refuse("it is measured at one point, not at a list of them")
	case c.Processes < 0 || c.Processes > processesMax:
		return refuse("the number of processes is %d: there can be 1 to %d", c.Processes, processesMax)
	case c.Runs < 0 || c.Bytes < 0 || c.Operations < 0 || c.Duration < 0 || c.DeadAfter < 0:
		return refuse("a number is less than 0")
	case !c.TLS.IsZero() && v.other != nil:
		return refuse("it starts processes of its own, which are not under TLS: leave the certificate out")
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
	number(&c.Connections, v.connections, 2000)
	number(&c.Writers, 200)
	number(&c.Files, v.files, 100_000)
	number(&c.Bytes, 256<<20)
	number(&c.Duration, v.duration, 20*time.Second)
	list(&c.Clients, v.clients, []int{1})
	list(&c.Servers, v.servers, []int{3})
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

// network is how this process reaches a cluster.
func (c *Config) network() (rpc.Network, error) {
	if c.TLS.IsZero() {
		return rpc.TCP, nil
	}
	return secure.Network(rpc.TCP, c.TLS)
}

// operations is how many operations a round has.
func (c *Config) operations(r round) int {
	if r.Operations > 0 {
		return r.Operations
	}
	return c.operationsOf(r.Clients)
}

// operationsOf is how many operations a run of so many clients has.
func (c *Config) operationsOf(clients int) int {
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
