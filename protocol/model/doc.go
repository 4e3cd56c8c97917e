// Package model drives the machines of package protocol through any order, loss and
// duplication of messages, crashes, lost, failed and copied disks, failovers and ends of
// leases, and checks the invariants after every step. It has only tests to run; its README
// tells how, what is modelled, and which test notices each rule that is removed.
package model
