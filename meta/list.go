package meta

import (
	"fmt"

	"github.com/quarryfs/quarry"
)

// List returns a page of a directory. Entries that lead to another shard have only the id
// and kind of their inodes. Intents that may change the answer are added to met; see [Lookup].
func List(v View, req *quarry.ListRequest, met *[]Intent) (*quarry.ListReply, error) {
	reply, err := list(reading(v), req, met)
	return reply, named("list", fmt.Sprint(req.Dir), err)
}

func list(s *state, req *quarry.ListRequest, met *[]Intent) (*quarry.ListReply, error) {
	if !s.header.owns(req.Dir.Slot()) {
		return nil, wrongShard(req.Dir.Slot())
	}
	if req.Max < 1 || req.Max > quarry.ListMax || len(req.After) > quarry.NameBytesMax {
		return nil, refuse(quarry.Invalid, "", "%d entries; from 1 to %d can be listed", req.Max, quarry.ListMax)
	}
	if _, err := s.dir(req.Dir); err != nil {
		return nil, err
	}
	prefix := entryKey(nil, req.Dir, "")
	from := prefix
	if req.After != "" {
		from = append(entryKey(nil, req.Dir, req.After), 0)
	}
	reply := &quarry.ListReply{}
	s.scan(prefix, from, func(key, value []byte) bool {
		if reply.More = len(reply.Entries) == req.Max; reply.More {
			return false
		}
		var e entryRecord
		decode(key, value, &e, entryFields)
		reply.Entries = append(reply.Entries, quarry.Entry{
			Name: string(key[len(prefix):]), Attr: e.attr(),
		})
		return true
	})
	last := ""
	if reply.More {
		last = reply.Entries[len(reply.Entries)-1].Name
	}
	s.allMayAppear(req.Dir, req.After, last, met)
	for i := range reply.Entries {
		a := &reply.Entries[i].Attr
		if inode := s.inode(a.Inode); inode != nil {
			*a = s.shown(a.Inode, inode)
		}
	}
	return reply, nil
}

// shown returns the attributes of an inode for who does not ask for its pieces. The length
// includes what a chunk that was opened again had before, so that it does not fall then.
func (s *state) shown(id quarry.Inode, i *inodeRecord) quarry.Attr {
	a := i.attr(id)
	if i.Open {
		p, _, _ := s.lastPiece(id, i)
		a.Length += s.piecedChunk(p.Handle).Base - p.ChunkOffset
	}
	return a
}
