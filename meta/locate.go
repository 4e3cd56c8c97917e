package meta

import (
	"fmt"

	"github.com/quarryfs/quarry"
)

// Locate returns a page of a file's layout, from the piece that holds the offset, and the
// chunks of its pieces, without addresses and capabilities. Beyond the end of the fixed
// pieces that is the open-ended piece, or none.
func Locate(v View, req *quarry.LocateRequest) (*quarry.LocateReply, error) {
	reply, err := locate(reading(v), req)
	return reply, named("locate", fmt.Sprint(req.File), err)
}

func locate(s *state, req *quarry.LocateRequest) (*quarry.LocateReply, error) {
	if !s.header.owns(req.File.Slot()) {
		return nil, wrongShard(req.File.Slot())
	}
	if req.Offset < 0 || req.Max < 1 || req.Max > quarry.PiecesMax {
		return nil, refuse(quarry.Invalid, "", "%d pieces from offset %d; from 1 to %d pieces can be asked for",
			req.Max, req.Offset, quarry.PiecesMax)
	}
	file, err := s.file(req.File)
	if err != nil {
		return nil, err
	}
	reply := &quarry.LocateReply{Attr: file.attr(req.File)}
	prefix := table(nil, uint16(req.File.Slot()), tablePiece, uint64(req.File))
	s.scan(prefix, pieceKey(nil, req.File, uint64(req.Offset)+1), func(key, value []byte) bool {
		if reply.More = len(reply.Pieces) == req.Max; reply.More {
			return false
		}
		var p pieceRecord
		decode(key, value, &p, pieceFields)
		reply.Pieces = append(reply.Pieces, p.piece(lastNumber(key), file.Length))
		return true
	})
	seen := make(map[quarry.Handle]bool, len(reply.Pieces))
	for i := range reply.Pieces {
		if h := reply.Pieces[i].Handle; h != 0 && !seen[h] {
			seen[h] = true
			reply.Chunks = append(reply.Chunks, s.piecedChunk(h).Chunk())
		}
	}
	return reply, nil
}
