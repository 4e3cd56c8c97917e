// Package test runs the built binary: real processes, real disks, real sockets. Every
// process is started by the test that uses it, on loopback addresses and in the test's own
// folders, and killed by its id.
//
// The tests take a few minutes in all. QUARRY_LONG=1 has them do more of the same.
package test
