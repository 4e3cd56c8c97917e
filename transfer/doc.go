// Package transfer moves files and whole trees between the local file system and a cluster, and
// within a cluster: what the command line's put, get, cp and sync do.
//
// A [Tree] is one side: [Local] or [Quarry]. [Targets] turns the words of a command line into
// pairs of a source and what it becomes; [Copy] carries pairs out, [Sync] makes one tree like
// another one. [Glob] finds the paths of a cluster that a pattern means, [Walk] goes through a
// tree.
//
// # What holds
//
// A file appears under its name whole or not at all, on both sides: a cluster links it when all
// of it is stored, a local file is written under a hidden name beside it and then renamed.
// Symbolic links that lead to files are followed. Links that lead to directories, sockets, pipes and
// devices are passed over, and said so, when they are found in a tree.
//
// # Bounds
//
// [Options].Parallel files are under way at a time, and of large ones fewer: memory is given out
// from a budget (copy.go), so that it depends neither on how many files there are nor on how large
// they are. A walk keeps one page of a cluster's directory, or the names of one local directory,
// for each level.
package transfer
