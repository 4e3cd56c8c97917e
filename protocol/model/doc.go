// Package model drives the machines of package protocol with any order, loss and
// duplication of messages, crashes, lost and copied disks, failovers and lease ends.
package model
