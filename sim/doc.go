// Package sim runs a whole cluster of real server code (masters with Raft, chunk servers,
// clients) in one process, on simulated time, network and disks, and breaks it as a seed
// says. [Run] is one such run.
//
// # Hosts
//
// A [Host] is a machine of the simulation: it has a clock of its own that runs a little too
// fast or too slow, disks that lose what was not synced when the power fails, and a place in
// the network. A process runs on it: a master, a chunk server or a client, put together by
// package cluster and package client exactly as in production. A host's process can be
// stopped, killed, cut off or held still, its power can fail, its disks can be slow, full,
// broken, rotten or emptied, and its time of day can jump.
//
// # Time
//
// Everything that happens is an event in one queue: a timer that fires, bytes that arrive, a
// disk that has finished. The [World] performs one event, waits until every goroutine of the
// simulation is blocked again (synctest.Wait), and takes the next one; when none is due, the
// time of the testing/synctest bubble moves on by itself. So what happens is decided by the
// order of events, and that is decided by the seed: how long bytes take, and what goes wrong,
// is a function of the seed, the hosts and the place in the stream, never of the order in
// which goroutines happened to run. What is written to a connection within one instant goes
// as one piece.
//
// docs/testing.md says how far a seed repeats, and what in Go's runtime and in Pebble stands
// in the way.
//
// # What is checked
//
// The observer stands between the network and every server and sees each request and reply;
// the checkers (check_*.go), one for each invariant of docs/protocol.md, are told what it
// sees while the simulation runs. What the clients did and were told is checked by package
// history. When the faults are over everything must heal, and what is then on the disks is
// checked.
package sim
