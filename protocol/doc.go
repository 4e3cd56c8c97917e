// Package protocol is the chunk protocol as pure step machines: [Member] and its role
// [Primary] at a chunk server, [Sealer], [SealRound] and [Leases] at a master, [HeldLease]
// at a chunk server, [Appender] at a client.
//
// A machine does no input or output, reads no clock, starts no goroutine and draws no
// random number. Each method is one event; it changes the machine and returns what is to be
// done about it, as [Effect] values. Bytes of data never enter a machine.
package protocol
