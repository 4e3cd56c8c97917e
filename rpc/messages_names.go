package rpc

import (
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

func lookupRequestFields(w *wire.Walk, m *quarry.LookupRequest) {
	wire.Uint(w, 1, &m.From)
	wire.String(w, 2, &m.Path, quarry.PathBytesMax)
}

func lookupReplyFields(w *wire.Walk, m *quarry.LookupReply) {
	wire.Message(w, 1, &m.Attr, wire.AttrFields)
	wire.String(w, 2, &m.Rest, quarry.PathBytesMax)
}

func statRequestFields(w *wire.Walk, m *quarry.StatRequest) { wire.Uint(w, 1, &m.Inode) }

func statReplyFields(w *wire.Walk, m *quarry.StatReply) {
	wire.Message(w, 1, &m.Attr, wire.AttrFields)
	wire.Message(w, 2, &m.Piece, wire.PieceFields)
	wire.Optional(w, 3, &m.Tail, chunkFields)
}

func listRequestFields(w *wire.Walk, m *quarry.ListRequest) {
	wire.Uint(w, 1, &m.Dir)
	wire.String(w, 2, &m.After, quarry.NameBytesMax)
	wire.Uint(w, 3, &m.Max)
}

func listReplyFields(w *wire.Walk, m *quarry.ListReply) {
	wire.List(w, 1, &m.Entries, quarry.ListMax, entryFields)
	wire.Bool(w, 2, &m.More)
}

func entryFields(w *wire.Walk, m *quarry.Entry) {
	wire.String(w, 1, &m.Name, quarry.NameBytesMax)
	wire.Message(w, 2, &m.Attr, wire.AttrFields)
}

func makeRequestFields(w *wire.Walk, m *quarry.MakeRequest) {
	wire.Message(w, 1, &m.Op, opFields)
	wire.Uint(w, 2, &m.Parent)
	wire.String(w, 3, &m.Name, quarry.NameBytesMax)
	wire.Uint(w, 4, &m.Kind)
	wire.Uint(w, 5, &m.Mode)
	wire.Bool(w, 6, &m.Existing)
	wire.Bool(w, 7, &m.Placed)
	wire.Uint(w, 8, &m.Slot)
	wire.Uint(w, 9, &m.UID)
	wire.Uint(w, 10, &m.GID)
}

func linkRequestFields(w *wire.Walk, m *quarry.LinkRequest) {
	wire.Message(w, 1, &m.Op, opFields)
	wire.Uint(w, 2, &m.Parent)
	wire.String(w, 3, &m.Name, quarry.NameBytesMax)
	wire.Uint(w, 4, &m.Mode)
	wire.List(w, 5, &m.Pieces, quarry.PiecesMax, wire.LinkPieceFields)
	wire.Bool(w, 6, &m.Replace)
	wire.Uint(w, 7, &m.Owner)
	wire.String(w, 8, &m.Path, quarry.PathBytesMax)
	wire.Uint(w, 9, &m.UID)
	wire.Uint(w, 10, &m.GID)
	wire.Uint(w, 11, &m.ModifiedNS)
}

func renameRequestFields(w *wire.Walk, m *quarry.RenameRequest) {
	wire.Message(w, 1, &m.Op, opFields)
	wire.Uint(w, 2, &m.Parent)
	wire.Uint(w, 3, &m.ToParent)
	wire.String(w, 4, &m.Name, quarry.NameBytesMax)
	wire.String(w, 5, &m.ToName, quarry.NameBytesMax)
	wire.Bool(w, 6, &m.Replace)
	wire.String(w, 7, &m.ToPath, quarry.PathBytesMax)
}

func removeRequestFields(w *wire.Walk, m *quarry.RemoveRequest) {
	wire.Message(w, 1, &m.Op, opFields)
	wire.Uint(w, 2, &m.Parent)
	wire.String(w, 3, &m.Name, quarry.NameBytesMax)
	wire.Bool(w, 4, &m.Dir)
	wire.String(w, 5, &m.Path, quarry.PathBytesMax)
	wire.Bool(w, 6, &m.Now)
}

func setAttrRequestFields(w *wire.Walk, m *quarry.SetAttrRequest) {
	wire.Message(w, 1, &m.Op, opFields)
	wire.Uint(w, 2, &m.Inode)
	wire.Bool(w, 3, &m.SetMode)
	wire.Bool(w, 4, &m.SetUID)
	wire.Bool(w, 5, &m.SetGID)
	wire.Bool(w, 6, &m.SetModified)
	wire.Uint(w, 7, &m.Mode)
	wire.Uint(w, 8, &m.UID)
	wire.Uint(w, 9, &m.GID)
	wire.Uint(w, 10, &m.ModifiedNS)
}

func removedRequestFields(w *wire.Walk, m *quarry.RemovedRequest) {
	wire.Uint(w, 1, &m.Shard)
	wire.String(w, 2, &m.Path, quarry.PathBytesMax)
	wire.Uint(w, 3, &m.After)
	wire.Uint(w, 4, &m.AfterFile)
	wire.Uint(w, 5, &m.Max)
}

func removedReplyFields(w *wire.Walk, m *quarry.RemovedReply) {
	wire.List(w, 1, &m.Files, quarry.RemovedMax, removedFileFields)
	wire.Bool(w, 2, &m.More)
	wire.Uint(w, 3, &m.After)
	wire.Uint(w, 4, &m.AfterFile)
	wire.Uint(w, 5, &m.KeepMS)
}

func removedFileFields(w *wire.Walk, m *quarry.RemovedFile) {
	wire.Uint(w, 1, &m.Inode)
	wire.String(w, 2, &m.Path, quarry.PathBytesMax)
	wire.Uint(w, 3, &m.Length)
	wire.Uint(w, 4, &m.Mode)
	wire.Uint(w, 5, &m.RemovedNS)
}

func undeleteRequestFields(w *wire.Walk, m *quarry.UndeleteRequest) {
	wire.Message(w, 1, &m.Op, opFields)
	wire.Uint(w, 2, &m.Parent)
	wire.String(w, 3, &m.Name, quarry.NameBytesMax)
	wire.Uint(w, 4, &m.Inode)
}

func trashRequestFields(w *wire.Walk, m *quarry.TrashRequest) { wire.Uint(w, 1, &m.KeepMS) }

func attrReplyFields(w *wire.Walk, m *quarry.AttrReply) {
	wire.Message(w, 1, &m.Attr, wire.AttrFields)
}

func locateRequestFields(w *wire.Walk, m *quarry.LocateRequest) {
	wire.Uint(w, 1, &m.File)
	wire.Uint(w, 2, &m.Offset)
	wire.Uint(w, 3, &m.Max)
}

func locateReplyFields(w *wire.Walk, m *quarry.LocateReply) {
	wire.Message(w, 1, &m.Attr, wire.AttrFields)
	wire.List(w, 2, &m.Pieces, quarry.PiecesMax, wire.PieceFields)
	wire.List(w, 3, &m.Chunks, chunksMax, chunkFields)
	wire.Bool(w, 4, &m.More)
}

func rollRequestFields(w *wire.Walk, m *quarry.RollRequest) {
	wire.Uint(w, 1, &m.Session)
	wire.Uint(w, 2, &m.File)
	wire.Uint(w, 3, &m.Last)
	wire.Uint(w, 4, &m.Version)
	wire.List(w, 5, &m.Suspects, membersMax, suspectFields)
	wire.String(w, 6, &m.Hint, quarry.PathBytesMax)
}

func rollReplyFields(w *wire.Walk, m *quarry.RollReply) {
	wire.Message(w, 1, &m.Attr, wire.AttrFields)
	wire.Message(w, 2, &m.Piece, wire.PieceFields)
	wire.Message(w, 3, &m.Chunk, chunkFields)
}

func allocateRequestFields(w *wire.Walk, m *quarry.AllocateRequest) {
	wire.Message(w, 1, &m.Op, opFields)
	wire.Uint(w, 2, &m.Near)
	wire.Uint(w, 3, &m.Count)
	wire.String(w, 4, &m.Hint, quarry.PathBytesMax)
	wire.Uint(w, 5, &m.Owner)
}

func allocateReplyFields(w *wire.Walk, m *quarry.AllocateReply) {
	wire.List(w, 1, &m.Chunks, countMax, chunkFields)
}

func finishRequestFields(w *wire.Walk, m *quarry.FinishRequest) {
	wire.Uint(w, 1, &m.Session)
	wire.Uint(w, 2, &m.Handle)
	wire.Uint(w, 3, &m.Version)
	wire.List(w, 4, &m.Suspects, membersMax, suspectFields)
}

func chunkRequestFields(w *wire.Walk, m *quarry.ChunkRequest) { wire.Uint(w, 1, &m.Handle) }

func chunkReplyFields(w *wire.Walk, m *quarry.ChunkReply) {
	wire.Message(w, 1, &m.Chunk, chunkFields)
}

func sessionRequestFields(w *wire.Walk, m *quarry.SessionRequest) {
	wire.Uint(w, 1, &m.Shard)
	wire.Uint(w, 2, &m.Session)
	wire.Bool(w, 3, &m.Close)
}

func sessionReplyFields(w *wire.Walk, m *quarry.SessionReply) {
	wire.Uint(w, 1, &m.Session)
	wire.Uint(w, 2, &m.ExpiryMS)
}

func reportRequestFields(w *wire.Walk, m *quarry.ReportRequest) {
	wire.Uint(w, 1, &m.Handle)
	wire.Uint(w, 2, &m.Version)
	wire.List(w, 3, &m.Suspects, membersMax, suspectFields)
	wire.Bool(w, 4, &m.Corrupt)
}
