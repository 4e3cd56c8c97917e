package meta

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/quarryfs/quarry"
)

// Lookup walks a path as far as the shard owns its directories. If the end of the path is an
// inode of another shard, the attributes are only its id and kind. Intents that may change the
// answer are added to met: it is right only if none of them was committed when the state was
// as it is in the view.
func Lookup(v View, req *quarry.LookupRequest, met *[]Intent) (*quarry.LookupReply, error) {
	reply, err := lookup(reading(v), req, met)
	return reply, named("lookup", "", err)
}

func lookup(s *state, req *quarry.LookupRequest, met *[]Intent) (*quarry.LookupReply, error) {
	if len(req.Path) > quarry.PathBytesMax {
		return nil, refuse(quarry.TooLarge, "", "the path has %d bytes, at most %d are allowed", len(req.Path), quarry.PathBytesMax)
	}
	if !s.header.owns(req.From.Slot()) {
		return nil, wrongShard(req.From.Slot())
	}
	at := s.inode(req.From)
	if at == nil {
		return nil, refuse(quarry.NotFound, "", "there is no inode %v", req.From)
	}
	id, rest, parts := req.From, req.Path, 0
	for {
		rest = strings.TrimLeft(rest, "/")
		if rest == "" {
			return &quarry.LookupReply{Attr: s.shown(id, at)}, nil
		}
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		if parts++; parts > quarry.PathPartsMax {
			return nil, refuse(quarry.TooLarge, "", "the path has more than %d parts", quarry.PathPartsMax)
		}
		if err := quarry.CheckName(name); err != nil {
			return nil, err
		}
		if at.Kind != quarry.KindDir {
			return nil, refuse(quarry.NotDir, walked(req.Path, name, rest), "a file stands in the way")
		}
		s.mayAppear(id, name, met)
		e, ok := s.entry(id, name)
		if !ok {
			return nil, refuse(quarry.NotFound, walked(req.Path, name, rest), "there is no such name")
		}
		if id = e.Inode; !s.header.owns(id.Slot()) {
			return &quarry.LookupReply{Attr: e.attr(), Rest: strings.TrimLeft(rest, "/")}, nil
		}
		at = s.namedInode(id)
	}
}

// walked returns the path up to and including name, behind which rest stands.
func walked(path, name, rest string) string {
	done := strings.TrimSuffix(strings.TrimSuffix(path, rest), "/")
	if len(done) > 2*quarry.NameBytesMax {
		done = name
	}
	return strconv.Quote(done)
}

// Stat returns the attributes of an inode and, of a file with an open tail, the tail: its
// chunk without addresses and capability.
func Stat(v View, req *quarry.StatRequest) (*quarry.StatReply, error) {
	s := reading(v)
	if !s.header.owns(req.Inode.Slot()) {
		return nil, named("stat", "", wrongShard(req.Inode.Slot()))
	}
	i := s.inode(req.Inode)
	if i == nil {
		return nil, quarry.Errorf("stat", quarry.NotFound, fmt.Sprint(req.Inode), "there is no such inode")
	}
	reply := &quarry.StatReply{Attr: i.attr(req.Inode)}
	if i.Open {
		p, end, _ := s.lastPiece(req.Inode, i)
		reply.Piece = p.piece(end, i.Length)
		tail := s.piecedChunk(p.Handle).Chunk()
		reply.Tail = &tail
	}
	return reply, nil
}

// Path returns the path of a directory; "" if there is none, or a part of it is on another
// shard.
func Path(v View, dir quarry.Inode) string {
	s := reading(v)
	path := ""
	for range depthMax {
		if dir == quarry.RootInode {
			return "/" + path
		}
		i, err := s.dir(dir)
		if err != nil || len(path) > quarry.PathBytesMax {
			return ""
		}
		if path != "" {
			path = "/" + path
		}
		path = i.Name + path
		dir = i.Parent
	}
	return ""
}
