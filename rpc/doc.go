// Package rpc is how Quarry's processes talk to each other: one framed protocol over TCP for
// everything between clients, masters and chunk servers.
//
// A process that offers something has a [Server], and says what with [ServeMaster],
// [ServeChunkServer], or, for operations whose contents this package does not know,
// [Server.HandleRaw] and [Server.HandleMessages]. A process that wants something has one
// [Client] for all servers, whose [Client.Master] and [Client.ChunkServer] return the
// contract's interfaces. So the same code works in one process and over the network.
//
// # Connections
//
// A connection begins with a handshake (hello.go) in which both sides say who they are and
// prove that they know the cluster's key. Then it carries frames (frame.go): a head of fixed
// size, a body in the encoding of package wire, and a payload outside it, which is received
// straight to where it is wanted. Requests of many callers share a connection, and leave
// together in one call to the system (writer.go). What is large or may wait has connections
// of its own, by lanes (lane.go).
//
// Within a machine there is a second network, [Beside] TCP, over which a server can pass files:
// see [Lender]. Package rpc/secure puts a network under TLS.
//
// # Order
//
// Append and Prepare are ordered: what one goroutine sends for one chunk is taken by the
// server's implementation in that order, called by the goroutine that reads from the
// connection. The answers may come in any order. All other requests are served each in a
// goroutine of its own.
//
// # Bounds
//
// A server bounds connections, those of clients apart from those of masters and chunk servers,
// and those in their handshake, requests in service per connection, the bytes of payloads per
// lane, and the length of every body and payload by its operation; see [ServerConfig]. When
// a bound is reached it reads no more from the connection, so the sender's window closes and
// the sender waits: nothing is dropped. A client bounds what waits to be sent.
//
// # Failure
//
// Both sides send a sign of life when they have nothing else to send, and give up a peer that is silent for three to four
// intervals, the longer ones of the two; both take five times as long while no request is under way. When a connection is lost, its calls fail with Unavailable, which says nothing about
// whether they were served, and the next call connects again. A call whose context ends returns at once; the server is told,
// and the context of its handler ends too, as it does at the deadline that travels with each request.
//
// # Buffers
//
// The caller's memory is used until the call returns, or done is called: a request's payload
// is sent from it and ReadRequest.Into is received into. On LaneBulk ReadRequest.Sink may find
// the memory when the reply has begun to come, and sees the bytes as they come. A server's handler has the payload
// of its request until it returns or calls done, because then the buffer is used for another
// one. What a handler returns as payload belongs to the connection until ReadReply.Release
// is called. What a client gets as a reply's payload is the caller's.
//
// Locks are taken in this order: remote.mu, Client.mu or Server.mu, clientConn.mu or
// serverConn.mu. A writer's is taken and left alone. None is held while a handler, a
// callback or the network is called.
package rpc
