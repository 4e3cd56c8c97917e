package quarry

import "context"

// ChunkServer keeps replicas of chunks. Masters, clients and other chunk servers call it,
// in process or over the network; package rpc has the client's end and the server's.
//
// Every request is refused with Permission if its capability does not allow it, with
// StaleVersion if it is meant for another incarnation or its version is below the promised
// one, with NotFound if the replica is not here, and with Busy when a bound on memory or
// requests is reached. An error that is not one of these says nothing about what was done,
// unless the method does. All methods may be called by many goroutines.
type ChunkServer interface {
	// Create makes an empty replica at version 1. It does not return before the replica and
	// its name are durable. The same request again succeeds. NoSpace: the disk cannot
	// reserve a whole chunk.
	Create(ctx context.Context, req *CreateRequest) error

	// Activate gives the addressed member the role of primary of the version, once: it is
	// refused with StaleVersion if the server ever took this role for the version before
	// and lost it, as in a restart. The same request again succeeds while the role lasts.
	Activate(ctx context.Context, req *ActivateRequest) error

	// Reopen makes a sealed replica a member of a further writable version, and reserves what
	// its chunk may still take. It does not return before that is durable. The same request
	// again succeeds while the process lives. StaleVersion: the replica is not complete at the
	// seal just before the version; Full: it can take few records more; NoSpace; Corrupt.
	Reopen(ctx context.Context, req *ReopenRequest) error

	// Append orders a record behind all records taken before it and calls done, once, when
	// it is durable at every member of the version, or refused. Calls of one goroutine are
	// taken in their order; Append returns when the request is taken, done may be called
	// before that. A record that the chunk holds already is answered with the place it has.
	// NotPrimary and StaleVersion: this version does not take the record any more; whether
	// it holds it is told by Fate after the seal. Full: it was not taken and never will be
	// in this version. Any other error: not known.
	Append(ctx context.Context, req *AppendRequest, done func(*AppendReply, error))

	// Prepare has a secondary write a batch and pass it on along the chain; done is called
	// when it is durable here and at all members behind, or as soon as one of them fails,
	// which the reply then names.
	// Calls of one goroutine are taken in their order.
	Prepare(ctx context.Context, req *PrepareRequest, done func(*PrepareReply, error))

	// Commit tells a secondary how far the chunk is committed.
	Commit(ctx context.Context, req *CommitRequest) error

	// Fence makes the request's version promised, durably, ends a role of a lower version,
	// and then tells what is durable here. A repeated fence is answered again. That there
	// is no such replica is a status of the reply, not an error; so is that the disk has not
	// answered yet, when only the role is over and the fence is to be sent again.
	Fence(ctx context.Context, req *FenceRequest) (*FenceReply, error)

	// Seal cuts a replica to the decided length. It does not return before that is durable.
	// A replica that cannot hold the seal answers Holds false and stays as it is.
	Seal(ctx context.Context, req *SealRequest) (*SealReply, error)

	// Copy fetches a sealed chunk with its records from one of the sources, or puts one together
	// from its parts, verifies every checksum, and returns when all is durable. A copy does not
	// serve before Add; what was put together from parts serves at once.
	Copy(ctx context.Context, req *CopyRequest) error

	// Add lets a copied replica serve.
	Add(ctx context.Context, req *AddRequest) error

	// Drop removes a replica into the server's trash; success if there is none.
	Drop(ctx context.Context, req *DropRequest) error

	// Fate tells what became of records of a session. Only a replica that is complete at
	// exactly the request's seal answers; any other refuses with StaleVersion.
	Fate(ctx context.Context, req *FateRequest) (*FateReply, error)

	// Read returns committed bytes with checksums that were verified or are sent to be
	// verified. Asked for bytes beyond what is committed here, it returns fewer, or none.
	// A request that is not validated needs the server's read lease; without one, Confirm.
	// Corrupt: the bytes here are broken; the master has been told.
	Read(ctx context.Context, req *ReadRequest) (*ReadReply, error)

	// End tells how far an open chunk is committed. Only the primary of the request's
	// version answers; any other refuses with NotPrimary, or with StaleVersion once fenced.
	End(ctx context.Context, req *EndRequest) (*EndReply, error)

	// Wait returns when more than Offset bytes are committed or the chunk is sealed here,
	// or shortly before ctx ends. Any member answers, as far as it knows.
	Wait(ctx context.Context, req *WaitRequest) (*WaitReply, error)

	// Records lists the committed records of a replica.
	Records(ctx context.Context, req *RecordsRequest) (*RecordsReply, error)
}
