// Package passing is connections within a machine over which open files can be passed: Unix
// sockets with names that are no files, so nothing is left behind by a process that was
// killed. A name belongs to the network namespace, as a loopback address does; who connects is
// known from the handshake of package rpc, whose [Network] is made of this.
//
// Descriptors come from the side that listens to the side that dials, at most one at a time; a
// Conn that was accepted closes what is passed to it.
package passing
