package meta

import (
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta/part"
	"github.com/quarryfs/quarry/wire"
)

// Result is what a command's proposer gets. Each command says which fields it fills in.
type Result struct {
	Err      error // nil, or a *quarry.Error
	Attr     quarry.Attr
	Session  quarry.SessionID
	Sessions []quarry.SessionID
	Handles  []quarry.Handle // chunks that were opened
	Orphans  []quarry.Handle // open chunks that nothing needs any more: seal them
	Range    HandleRange
	Piece    quarry.Piece
	Chunk    *ChunkRecord
	Next     quarry.Handle // go on from here, if More
	More     bool          // there is more to do: give the command again
	Count    int           // how much was done
	// Tx is the transaction that the operation needs: its result is not known before that is
	// decided. If Decided, the result is final and only other shards have yet to follow.
	Tx      TxID
	Decided bool
	Part    *Part   // as it was prepared
	Met     *Intent // in the way of the command, which is Busy
	// HandleFloor, with Busy: a chunk was not made because its handle is below this number. The
	// leader has to reserve others.
	HandleFloor uint64
}

// HandleRange is a row of handle numbers, which may be used with any slot of the shard.
type HandleRange struct {
	First, Count uint64
}

const (
	orphansMax     = 1000
	resultBytesMax = 64 << 10
)

func resultFields(w *wire.Walk, r *Result) {
	wire.Error(w, 1, &r.Err)
	wire.Message(w, 2, &r.Attr, wire.AttrFields)
	wire.Uint(w, 3, &r.Session)
	wire.Uints(w, 4, &r.Sessions, sessionsMax)
	wire.Uints(w, 5, &r.Handles, openMax)
	wire.Uints(w, 6, &r.Orphans, orphansMax)
	wire.Uint(w, 7, &r.Range.First)
	wire.Uint(w, 8, &r.Range.Count)
	wire.Message(w, 9, &r.Piece, wire.PieceFields)
	wire.Optional(w, 10, &r.Chunk, chunkFields)
	wire.Uint(w, 11, &r.Next)
	wire.Bool(w, 12, &r.More)
	wire.Uint(w, 13, &r.Count)
	wire.Uint(w, 14, &r.Tx)
	wire.Bool(w, 15, &r.Decided)
	wire.Optional(w, 16, &r.Part, part.Fields)
	wire.Optional(w, 17, &r.Met, intentFields)
	wire.Uint(w, 18, &r.HandleFloor)
}

// Append appends the result's encoding to dst.
func (r *Result) Append(dst []byte) []byte { return wire.Marshal(dst, r, resultFields) }

// DecodeResult reads an encoded result.
func DecodeResult(src []byte) (*Result, error) {
	r := new(Result)
	if err := wire.Unmarshal(src, r, resultFields); err != nil {
		return nil, err
	}
	return r, nil
}
