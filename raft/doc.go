// Package raft hosts a node's members of many Raft groups on one journal and one state store,
// with any state machine.
package raft
