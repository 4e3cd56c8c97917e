package rpc

import (
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

func createRequestFields(w *wire.Walk, m *quarry.CreateRequest) {
	wire.Message(w, 1, &m.ChunkRef, refFields)
	wire.Fixed16(w, 2, &m.Disk)
	wire.Bool(w, 3, &m.Mutable)
	wire.Uint(w, 4, &m.File)
	wire.Uint(w, 5, &m.Position)
	wire.String(w, 6, &m.Hint, quarry.PathBytesMax)
}

func activateRequestFields(w *wire.Walk, m *quarry.ActivateRequest) {
	wire.Message(w, 1, &m.ChunkRef, refFields)
	wire.List(w, 2, &m.Members, membersMax, memberFields)
	wire.Uint(w, 3, &m.Base)
}

func reopenRequestFields(w *wire.Walk, m *quarry.ReopenRequest) {
	wire.Message(w, 1, &m.ChunkRef, refFields)
	wire.Uint(w, 2, &m.Base)
	wire.Uint(w, 3, &m.PrevWritableVersion)
}

// appendRequestFields leaves out Data, which is the payload.
func appendRequestFields(w *wire.Walk, m *quarry.AppendRequest) {
	wire.Message(w, 1, &m.ChunkRef, refFields)
	wire.Uint(w, 2, &m.Session)
	wire.Uint(w, 3, &m.Sequence)
	wire.Uint(w, 4, &m.Oldest)
	wire.Uints(w, 5, &m.CRCs, crcsMax)
}

func appendReplyFields(w *wire.Walk, m *quarry.AppendReply) { wire.Uint(w, 1, &m.Offset) }

// prepareRequestFields leaves out Data, which is the payload.
func prepareRequestFields(w *wire.Walk, m *quarry.PrepareRequest) {
	wire.Message(w, 1, &m.ChunkRef, refFields)
	wire.Uint(w, 2, &m.Batch)
	wire.Uint(w, 3, &m.Offset)
	wire.Uint(w, 4, &m.Commit)
	wire.List(w, 5, &m.Records, batchMax, recordHeaderFields)
	wire.List(w, 6, &m.Chain, membersMax, memberFields)
}

func recordHeaderFields(w *wire.Walk, m *quarry.RecordHeader) {
	wire.Uint(w, 1, &m.Session)
	wire.Uint(w, 2, &m.Sequence)
	wire.Uint(w, 3, &m.Length)
	wire.Uints(w, 4, &m.CRCs, crcsMax)
}

func prepareReplyFields(w *wire.Walk, m *quarry.PrepareReply) {
	wire.List(w, 1, &m.Durable, membersMax, memberLengthFields)
	wire.List(w, 2, &m.Failed, membersMax, suspectFields)
}

func memberLengthFields(w *wire.Walk, m *quarry.MemberLength) {
	wire.Uint(w, 1, &m.Server)
	wire.Uint(w, 2, &m.Length)
}

func commitRequestFields(w *wire.Walk, m *quarry.CommitRequest) {
	wire.Message(w, 1, &m.ChunkRef, refFields)
	wire.Uint(w, 2, &m.Commit)
	wire.List(w, 3, &m.Chain, membersMax, memberFields)
}

func fenceRequestFields(w *wire.Walk, m *quarry.FenceRequest) {
	wire.Message(w, 1, &m.ChunkRef, refFields)
}

func fenceReplyFields(w *wire.Walk, m *quarry.FenceReply) {
	wire.Uint(w, 1, &m.Version)
	wire.Uint(w, 2, &m.Incarnation)
	wire.Uint(w, 3, &m.Status)
	wire.Uint(w, 4, &m.LogVersion)
	wire.Uint(w, 5, &m.DurableLength)
	wire.Uint(w, 6, &m.Commit)
	wire.Uint(w, 7, &m.SealVersion)
	wire.Uint(w, 8, &m.SealLength)
}

func sealRequestFields(w *wire.Walk, m *quarry.SealRequest) {
	wire.Message(w, 1, &m.ChunkRef, refFields)
	wire.Uint(w, 2, &m.Length)
	wire.Uint(w, 3, &m.WritableVersion)
	wire.Uint(w, 4, &m.PrevWritableVersion)
	wire.Uint(w, 5, &m.Position)
}

func sealReplyFields(w *wire.Walk, m *quarry.SealReply) {
	wire.Bool(w, 1, &m.Holds)
	wire.Uint(w, 2, &m.CRC)
}

func copyRequestFields(w *wire.Walk, m *quarry.CopyRequest) {
	wire.Message(w, 1, &m.ChunkRef, refFields)
	wire.Fixed16(w, 2, &m.Disk)
	wire.Uint(w, 3, &m.Length)
	wire.Uint(w, 4, &m.WritableVersion)
	wire.Uint(w, 5, &m.CRC)
	wire.Bool(w, 6, &m.CRCKnown)
	wire.Bool(w, 7, &m.Mutable)
	wire.Uint(w, 8, &m.File)
	wire.Uint(w, 9, &m.Position)
	wire.String(w, 10, &m.Hint, quarry.PathBytesMax)
	wire.List(w, 11, &m.Sources, membersMax, memberFields)
	wire.Uint(w, 12, &m.BytesPerSecond)
	wire.List(w, 13, &m.Parts, quarry.CopyPartsMax, copyPartFields)
	wire.Uint(w, 14, &m.BytesPerSecondLeast)
}

func copyPartFields(w *wire.Walk, m *quarry.CopyPart) {
	wire.Uint(w, 1, &m.Handle)
	wire.Uint(w, 2, &m.Version)
	wire.Uint(w, 3, &m.Length)
	wire.List(w, 4, &m.Sources, membersMax, memberFields)
}

func addRequestFields(w *wire.Walk, m *quarry.AddRequest) {
	wire.Message(w, 1, &m.ChunkRef, refFields)
	wire.Bool(w, 2, &m.Mutable)
}

func dropRequestFields(w *wire.Walk, m *quarry.DropRequest) {
	wire.Message(w, 1, &m.ChunkRef, refFields)
}

func fateRequestFields(w *wire.Walk, m *quarry.FateRequest) {
	wire.Message(w, 1, &m.ChunkRef, refFields)
	wire.Uint(w, 2, &m.Length)
	wire.Uint(w, 3, &m.Session)
	wire.Uints(w, 4, &m.Sequences, quarry.WindowRecords)
}

func fateReplyFields(w *wire.Walk, m *quarry.FateReply) {
	wire.Uint(w, 1, &m.Version)
	wire.Uint(w, 2, &m.Length)
	wire.List(w, 3, &m.Fates, quarry.WindowRecords, fateFields)
}

func fateFields(w *wire.Walk, m *quarry.Fate) {
	wire.Uint(w, 1, &m.Sequence)
	wire.Uint(w, 2, &m.State)
	wire.Uint(w, 3, &m.Offset)
}

// readRequestFields leaves out Into, which stays with the caller.
func readRequestFields(w *wire.Walk, m *quarry.ReadRequest) {
	wire.Message(w, 1, &m.ChunkRef, refFields)
	wire.Uint(w, 2, &m.Offset)
	wire.Uint(w, 3, &m.Length)
	wire.Bool(w, 4, &m.Validated)
	wire.Bool(w, 5, &m.Copying)
}

// readReplyFields leaves out Data and File, which are the payload.
func readReplyFields(w *wire.Walk, m *quarry.ReadReply) {
	wire.Uints(w, 1, &m.CRCs, crcsMax)
	wire.Bool(w, 2, &m.Pressed)
}

func endRequestFields(w *wire.Walk, m *quarry.EndRequest) {
	wire.Message(w, 1, &m.ChunkRef, refFields)
}

func endReplyFields(w *wire.Walk, m *quarry.EndReply) {
	wire.Uint(w, 1, &m.Commit)
	wire.Bool(w, 2, &m.Confirm)
}

func waitRequestFields(w *wire.Walk, m *quarry.WaitRequest) {
	wire.Message(w, 1, &m.ChunkRef, refFields)
	wire.Uint(w, 2, &m.Offset)
}

func waitReplyFields(w *wire.Walk, m *quarry.WaitReply) {
	wire.Uint(w, 1, &m.Commit)
	wire.Bool(w, 2, &m.Sealed)
}

func recordsRequestFields(w *wire.Walk, m *quarry.RecordsRequest) {
	wire.Message(w, 1, &m.ChunkRef, refFields)
	wire.Uint(w, 2, &m.Offset)
}

func recordsReplyFields(w *wire.Walk, m *quarry.RecordsReply) {
	wire.List(w, 1, &m.Runs, quarry.RecordRunsMax, recordRunFields)
	wire.Uints(w, 2, &m.Forgotten, forgottenMax)
	wire.Uint(w, 3, &m.Next)
	wire.Bool(w, 4, &m.More)
	wire.Uint(w, 5, &m.Length)
}

func recordRunFields(w *wire.Walk, m *quarry.RecordRun) {
	wire.Uint(w, 1, &m.Session)
	wire.Uint(w, 2, &m.Sequence)
	wire.Uint(w, 3, &m.Count)
	wire.Uint(w, 4, &m.Offset)
	wire.Uint(w, 5, &m.Length)
}
