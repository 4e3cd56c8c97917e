// Package clienttest is a cluster in memory for tests of whatever uses package client: a
// master of two shards and some chunk servers that run the real chunk protocol, without a
// network, a disk or a second copy of the master. It can be told to fail: servers die, hang,
// restart, lose answers, return broken bytes; the master loses answers.
//
// It is honest about what a client can see: mutations happen once per Op, appends follow
// package protocol, refusals have the kinds that the contract names. It keeps time by the
// clock it is given, so that it works in a testing/synctest bubble.
//
// [Run] is the suite that every client.FileSystem passes.
package clienttest
