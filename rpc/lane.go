package rpc

import "github.com/quarryfs/quarry"

// Lane says what a connection is for. A client has connections of each lane that it needs
// to a server, so that what is large or may wait never stands in the way of what is small.
//
// Lanes also keep the chunk servers from waiting for each other in a circle. A request holds
// a buffer until it is answered; an append is answered when the members behind the primary
// have answered, and a prepare when those behind its receiver have. If they all came through
// the same connections and drew on the same memory, each server could be full of requests
// that wait for room at the next one. So a request draws only on what belongs to its lane,
// and waits only for lanes with fewer members behind them.
type Lane uint8

// The lanes.
const (
	// LaneControl is one connection for all small requests, of many callers at a time.
	LaneControl Lane = 0
	// LaneBulk is a few connections for replies with payloads, one request at a time each.
	LaneBulk Lane = 1
	// LaneMessages is one connection for messages that keep their order, Raft's.
	LaneMessages Lane = 2
	// LaneAppend is a few connections for appends; those of one chunk share one.
	LaneAppend Lane = 3
	// LanePrepare is the first of ReplicasMax lanes for prepares: with no member behind the
	// receiver, with one, and so on.
	LanePrepare Lane = 8

	laneMax = LanePrepare + quarry.ReplicasMax - 1
)

// stripes is how many connections a lane has to one server; the requests of one key, a
// chunk's handle, always take the same one and so keep their order.
func (l Lane) stripes() uint64 {
	if l >= LaneAppend {
		return 4
	}
	return 1
}

// firstBufferBytes is the size with which the receive buffer of a connection begins.
const firstBufferBytes = 4 << 10

// bufferBytes is the size to which the receive buffer of a connection grows. Where payloads come, it is
// small, so that they are received straight to their place.
func (l Lane) bufferBytes() int {
	switch l {
	case LaneControl:
		return 32 << 10
	case LaneBulk:
		return 4 << 10
	}
	return 16 << 10
}

// Route chooses the connection that a request takes.
type Route struct {
	Lane Lane
	Key  uint64 // requests with the same lane and key keep their order
}
