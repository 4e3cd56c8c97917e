// Package chaos finds out on one machine, without any rights, whether a cluster keeps its
// promises: it starts a cluster of real processes, has clients work on it, does faults to it,
// and judges what the clients saw. "quarry selftest" is its command.
//
// # Nouns
//
// A [Cluster] is masters and chunk servers, each a [Process] of the quarry binary with a folder
// of its own. They meet in a [Network], which can cut them apart: [Proxies] is one that any user
// can have. A fault is planned as an [Event], whom it befalls is found out when it begins, and
// what was done is a [Fault]. [Plan] draws the events from a seed, [Run] does all of it, a
// [Report] is what it has come to, and [Report.Page] draws it.
//
// # Invariants
//
// No fault is more than the cluster must bear: bytes are spoilt on one chunk server only, and
// only while every chunk has another replica; of three masters two are left alone. At the
// end every fault is undone. From then on the cluster has no excuse: it must become whole, all
// must be readable, all replicas of a chunk must be the same.
//
// The plan follows from the seed. When exactly things happen depends on the machine, so the
// same seed makes the same faults in the same order, not the same run.
//
// # Other networks
//
// A test that may do more, such as to make network namespaces, brings its own [Network] in
// [Config]; the schedule, the workload and the checks are the same.
package chaos
