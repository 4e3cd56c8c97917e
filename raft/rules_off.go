//go:build !mutant

package raft

func off(Rule) bool { return false }
