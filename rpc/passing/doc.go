// Package passing is connections within a machine over which open files can be passed: Unix
// sockets with names that are no files, so nothing is left behind by a process that was
// killed. A name belongs to the network namespace, as a loopback address does, and anybody there can
// take one that is free; so a listener has a name that nobody knows before, and who is at the other
// end is known from the handshake of package rpc, whose [Network] is made of this.
//
// Descriptors come from the side that listens to the side that dials, at most one at a time; a
// Conn that was accepted ends when something is passed to it. Listener.mu comes before Conn.mu.
package passing
