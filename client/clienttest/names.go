package clienttest

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/quarryfs/quarry"
)

// inode is a file or directory.
type inode struct {
	attr    quarry.Attr
	entries map[string]quarry.Inode
	pieces  []quarry.Piece
	tail    *chunk // of the last piece, while it is open-ended
}

func newInode(id quarry.Inode, kind quarry.FileKind) *inode {
	return &inode{attr: quarry.Attr{Inode: id, Kind: kind, Links: 1}, entries: map[string]quarry.Inode{}}
}

// open returns the chunk of the open-ended piece, or nil.
func (n *inode) open() *chunk {
	if n.tail == nil || n.tail.state == quarry.ChunkSealed {
		return nil
	}
	return n.tail
}

// session is what the master keeps of a client.
type session struct {
	seen    int64
	results map[quarry.Sequence]result
}

type result struct {
	reply any
	err   error
}

// The slots below the middle belong to shard 1, the others to shard 2, until they are moved.
// Directories directly below the root get a slot by their name, so that both are used.
func (c *Cluster) shardOf(s quarry.Slot) quarry.ShardID { return c.owners[s] }

// MoveSlots gives slots to another shard, with everything in them.
func (c *Cluster) MoveSlots(slots quarry.SlotRange, to quarry.ShardID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := slots.First; s <= slots.Last; s++ {
		c.owners[s] = to
	}
	c.mapVersion++
}

// topology returns the shards, each with its slots.
func (c *Cluster) topology() []quarry.ShardInfo {
	shards := []quarry.ShardInfo{{Shard: quarry.RootShard, Leader: 1}, {Shard: 1, Leader: 1}, {Shard: 2, Leader: 1}}
	for s, owner := range c.owners {
		s, set := quarry.Slot(s), &shards[owner].Slots
		if n := len(*set); n > 0 && (*set)[n-1].Last+1 == s {
			(*set)[n-1].Last = s
		} else {
			*set = append(*set, quarry.SlotRange{First: s, Last: s})
		}
	}
	return shards
}

func (c *Cluster) next() uint64 {
	c.number++
	return c.number
}

// walk returns the inode of a path; nil if there is none.
func (c *Cluster) walk(path string) *inode {
	n := c.inodes[quarry.RootInode]
	for name := range strings.SplitSeq(path, "/") {
		if name == "" {
			continue
		}
		if n = c.inodes[n.entries[name]]; n == nil {
			return nil
		}
	}
	return n
}

// attr returns what is told of an inode.
func (c *Cluster) attr(n *inode) quarry.Attr {
	a := n.attr
	a.Entries, a.Length, a.Open = int64(len(n.entries)), 0, n.open() != nil
	for _, p := range n.pieces {
		if p.Length != quarry.OpenEnded {
			a.Length += p.Length
		}
	}
	return a
}

// expire drops sessions that were not kept alive.
func (c *Cluster) expire() {
	now := int64(c.clock.Now())
	for id, s := range c.sessions {
		if now-s.seen > int64(c.config.Expiry) {
			delete(c.sessions, id)
		}
	}
}

// once carries out a mutation, or gives its first result again.
func once[R any](c *Cluster, op quarry.Op, slot quarry.Slot, do func() (*R, error)) (*R, error) {
	c.expire()
	s := c.sessions[op.Session]
	if s == nil || op.Sequence == 0 || op.Sequence < op.Oldest {
		return nil, quarry.Errorf("session", quarry.SessionExpired, "", "session %d is not known", op.Session)
	}
	for seq := range s.results {
		if seq < op.Oldest {
			delete(s.results, seq)
		}
	}
	r, again := s.results[op.Sequence]
	if !again && c.shardOf(op.Session.Slot()) != c.shardOf(slot) {
		return nil, &quarry.Error{Op: "once", Kind: quarry.WrongShard, Err: &quarry.WrongShardError{Slot: slot, Map: c.mapVersion}}
	}
	if !again {
		reply, err := do()
		r = result{reply, err}
		s.results[op.Sequence] = r
	}
	return r.reply.(*R), r.err
}

// ownerOf returns the session that owns the chunks of an operation.
func ownerOf(op quarry.Op, owner quarry.SessionID) quarry.SessionID {
	if owner != 0 {
		return owner
	}
	return op.Session
}

// Session implements quarry.Master.
func (m *Master) Session(ctx context.Context, req *quarry.SessionRequest) (*quarry.SessionReply, error) {
	return ask(ctx, m, "session", func(c *Cluster) (*quarry.SessionReply, error) {
		c.expire()
		if req.Session == 0 {
			home := slices.Index(c.owners[:], req.Shard)
			if home < 0 {
				return nil, quarry.WrongShard
			}
			id := quarry.SessionID(quarry.MakeInode(quarry.Slot(home), c.next()))
			c.sessions[id] = &session{seen: int64(c.clock.Now()), results: map[quarry.Sequence]result{}}
			return &quarry.SessionReply{Session: id, ExpiryMS: c.config.Expiry.Milliseconds()}, nil
		}
		s := c.sessions[req.Session]
		if s == nil {
			return nil, quarry.SessionExpired
		}
		s.seen = int64(c.clock.Now())
		if req.Close {
			delete(c.sessions, req.Session)
		}
		return &quarry.SessionReply{Session: req.Session, ExpiryMS: c.config.Expiry.Milliseconds()}, nil
	})
}

// Lookup implements quarry.Master. It stops where the shard changes.
func (m *Master) Lookup(ctx context.Context, req *quarry.LookupRequest) (*quarry.LookupReply, error) {
	return ask(ctx, m, "lookup", func(c *Cluster) (*quarry.LookupReply, error) {
		n, rest := c.inodes[req.From], req.Path
		for rest != "" {
			name, left, _ := strings.Cut(rest, "/")
			switch {
			case n == nil:
				return nil, quarry.Errorf("lookup", quarry.NotFound, name, "its directory is gone")
			case n.attr.Kind != quarry.KindDir:
				return nil, quarry.Errorf("lookup", quarry.NotDir, name, "it is looked for in a file")
			case c.shardOf(n.attr.Inode.Slot()) != c.shardOf(req.From.Slot()):
				return &quarry.LookupReply{Attr: c.attr(n), Rest: rest}, nil
			}
			child, ok := n.entries[name]
			if !ok {
				return nil, quarry.Errorf("lookup", quarry.NotFound, name, "there is no such name")
			}
			n, rest = c.inodes[child], left
		}
		if n == nil {
			return nil, quarry.NotFound
		}
		return &quarry.LookupReply{Attr: c.attr(n)}, nil
	})
}

// Stat implements quarry.Master.
func (m *Master) Stat(ctx context.Context, req *quarry.StatRequest) (*quarry.StatReply, error) {
	return ask(ctx, m, "stat", func(c *Cluster) (*quarry.StatReply, error) {
		n := c.inodes[req.Inode]
		if n == nil {
			return nil, quarry.NotFound
		}
		r := &quarry.StatReply{Attr: c.attr(n)}
		if open := n.open(); open != nil {
			told := c.tell(open)
			r.Piece, r.Tail = n.pieces[len(n.pieces)-1], &told
		}
		return r, nil
	})
}

// List implements quarry.Master.
func (m *Master) List(ctx context.Context, req *quarry.ListRequest) (*quarry.ListReply, error) {
	return ask(ctx, m, "list", func(c *Cluster) (*quarry.ListReply, error) {
		n := c.inodes[req.Dir]
		switch {
		case n == nil:
			return nil, quarry.Errorf("list", quarry.NotFound, "", "the directory is gone")
		case n.attr.Kind != quarry.KindDir:
			return nil, quarry.NotDir
		}
		var names []string
		for name := range n.entries {
			if name > req.After {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		r := &quarry.ListReply{More: len(names) > req.Max}
		for _, name := range names[:min(len(names), req.Max)] {
			r.Entries = append(r.Entries, quarry.Entry{Name: name, Attr: c.attr(c.inodes[n.entries[name]])})
		}
		return r, nil
	})
}

// put makes an inode under a name.
func (c *Cluster) put(parent *inode, name string, kind quarry.FileKind) *inode {
	slot := parent.attr.Inode.Slot()
	if kind == quarry.KindDir && parent.attr.Inode == quarry.RootInode {
		slot = quarry.Slot(uint32(name[0]) * 37 % quarry.Slots)
		if name[0]%2 == 0 {
			slot = quarry.Slots/2 + slot/2
		}
	}
	n := newInode(quarry.MakeInode(slot, c.next()), kind)
	c.inodes[n.attr.Inode] = n
	parent.entries[name] = n.attr.Inode
	return n
}

// dir returns a directory in which a name may be changed.
func (c *Cluster) dir(id quarry.Inode, name string) (*inode, error) {
	if err := quarry.CheckName(name); err != nil {
		return nil, err
	}
	n := c.inodes[id]
	switch {
	case n == nil:
		return nil, quarry.Errorf("dir", quarry.NotFound, "", "the directory is gone")
	case n.attr.Kind != quarry.KindDir:
		return nil, quarry.NotDir
	}
	return n, nil
}

// Make implements quarry.Master.
func (m *Master) Make(ctx context.Context, req *quarry.MakeRequest) (*quarry.AttrReply, error) {
	return ask(ctx, m, "make", func(c *Cluster) (*quarry.AttrReply, error) {
		return once(c, req.Op, req.Parent.Slot(), func() (*quarry.AttrReply, error) {
			parent, err := c.dir(req.Parent, req.Name)
			if err != nil {
				return nil, err
			}
			if id, ok := parent.entries[req.Name]; ok {
				if n := c.inodes[id]; req.Existing && n.attr.Kind == req.Kind {
					return &quarry.AttrReply{Attr: c.attr(n)}, nil
				}
				return nil, quarry.Errorf("make", quarry.Exists, req.Name, "the name is taken")
			}
			n := c.put(parent, req.Name, req.Kind)
			n.attr.Mode, n.attr.UID, n.attr.GID, n.attr.Modified = req.Mode, req.UID, req.GID, c.clock.Wall().UnixNano()
			return &quarry.AttrReply{Attr: c.attr(n)}, nil
		})
	})
}

// Link implements quarry.Master.
func (m *Master) Link(ctx context.Context, req *quarry.LinkRequest) (*quarry.AttrReply, error) {
	return ask(ctx, m, "link", func(c *Cluster) (*quarry.AttrReply, error) {
		return once(c, req.Op, req.Parent.Slot(), func() (*quarry.AttrReply, error) {
			parent, err := c.dir(req.Parent, req.Name)
			if err != nil {
				return nil, err
			}
			old, taken := parent.entries[req.Name]
			switch {
			case taken && !req.Replace:
				return nil, quarry.Errorf("link", quarry.Exists, req.Name, "the name is taken")
			case taken && c.inodes[old].attr.Kind == quarry.KindDir:
				return nil, quarry.Errorf("link", quarry.IsDir, req.Name, "a directory cannot be replaced by a file")
			}
			pieces, err := c.linked(req)
			if err != nil {
				return nil, err
			}
			c.discard(c.inodes[old], req.Path, false)
			n := c.put(parent, req.Name, quarry.KindFile)
			n.attr.Mode, n.attr.UID, n.attr.GID, n.pieces = req.Mode, req.UID, req.GID, pieces
			n.attr.Modified = cmp.Or(req.ModifiedNS, c.clock.Wall().UnixNano())
			return &quarry.AttrReply{Attr: c.attr(n)}, nil
		})
	})
}

// linked checks what is to be published.
func (c *Cluster) linked(req *quarry.LinkRequest) ([]quarry.Piece, error) {
	var pieces []quarry.Piece
	offset := int64(0)
	for _, p := range req.Pieces {
		piece := quarry.Piece{Offset: offset, Length: p.Length, Kind: quarry.PieceInline, Inline: slices.Clone(p.Inline)}
		if p.Handle != 0 {
			k := c.chunks[p.Handle]
			switch {
			case k == nil || k.owner != ownerOf(req.Op, req.Owner) || c.sessions[k.owner] == nil:
				return nil, quarry.Errorf("link", quarry.NotFound, p.Handle.String(), "the session owns no such chunk")
			case k.state != quarry.ChunkSealed || k.length != p.Length:
				return nil, quarry.Errorf("link", quarry.Invalid, p.Handle.String(), "it is not a sealed chunk of this length")
			}
			piece = quarry.Piece{Offset: offset, Length: p.Length, Kind: quarry.PieceChunk, Handle: p.Handle}
		}
		pieces = append(pieces, piece)
		offset += p.Length
	}
	for _, p := range req.Pieces {
		if p.Handle != 0 {
			c.chunks[p.Handle].owner, c.chunks[p.Handle].linked = 0, true
		}
	}
	return pieces, nil
}

// SetAttr implements quarry.Master.
func (m *Master) SetAttr(ctx context.Context, req *quarry.SetAttrRequest) (*quarry.AttrReply, error) {
	return ask(ctx, m, "set attributes", func(c *Cluster) (*quarry.AttrReply, error) {
		return once(c, req.Op, req.Inode.Slot(), func() (*quarry.AttrReply, error) {
			n := c.inodes[req.Inode]
			if n == nil {
				return nil, quarry.Errorf("set attributes", quarry.NotFound, req.Inode.String(), "it is gone")
			}
			if req.SetMode && req.Mode > 0o7777 {
				return nil, quarry.Errorf("set attributes", quarry.Invalid, req.Inode.String(), "mode %#o", req.Mode)
			}
			if req.SetMode {
				n.attr.Mode = req.Mode
			}
			if req.SetUID {
				n.attr.UID = req.UID
			}
			if req.SetGID {
				n.attr.GID = req.GID
			}
			if req.SetModified {
				n.attr.Modified = cmp.Or(req.ModifiedNS, c.clock.Wall().UnixNano())
			}
			return &quarry.AttrReply{Attr: c.attr(n)}, nil
		})
	})
}

// Rename implements quarry.Master.
func (m *Master) Rename(ctx context.Context, req *quarry.RenameRequest) (*quarry.AttrReply, error) {
	return ask(ctx, m, "rename", func(c *Cluster) (*quarry.AttrReply, error) {
		return once(c, req.Op, req.Parent.Slot(), func() (*quarry.AttrReply, error) {
			from, err := c.dir(req.Parent, req.Name)
			if err != nil {
				return nil, err
			}
			to, err := c.dir(req.ToParent, req.ToName)
			if err != nil {
				return nil, err
			}
			id, ok := from.entries[req.Name]
			if !ok {
				return nil, quarry.Errorf("rename", quarry.NotFound, req.Name, "there is no such name")
			}
			moved, old := c.inodes[id], c.inodes[to.entries[req.ToName]]
			if moved == old {
				return &quarry.AttrReply{Attr: c.attr(moved)}, nil
			}
			if err := c.mayReplace(moved, old, req.Replace); err != nil {
				return nil, err
			}
			if c.below(to, moved) {
				return nil, quarry.Errorf("rename", quarry.Invalid, req.Name, "a directory cannot be moved into itself")
			}
			c.discard(old, req.ToPath, false)
			delete(from.entries, req.Name)
			to.entries[req.ToName] = id
			return &quarry.AttrReply{Attr: c.attr(moved)}, nil
		})
	})
}

// mayReplace returns why what is moved may not take the place of old, which may be nil.
func (c *Cluster) mayReplace(moved, old *inode, replace bool) error {
	switch {
	case old == nil:
		return nil
	case !replace || moved.attr.Kind == quarry.KindDir && old.attr.Kind == quarry.KindDir:
		return quarry.Errorf("rename", quarry.Exists, "", "the name is taken")
	case old.attr.Kind == quarry.KindDir:
		return quarry.Errorf("rename", quarry.IsDir, "", "a directory cannot be replaced by a file")
	case moved.attr.Kind == quarry.KindDir:
		return quarry.Errorf("rename", quarry.NotDir, "", "a file cannot be replaced by a directory")
	}
	return nil
}

// below reports whether a directory is top or is in it, at whatever depth.
func (c *Cluster) below(dir, top *inode) bool {
	if dir == top {
		return true
	}
	for _, id := range top.entries {
		if n := c.inodes[id]; n.attr.Kind == quarry.KindDir && c.below(dir, n) {
			return true
		}
	}
	return false
}

// Remove implements quarry.Master.
func (m *Master) Remove(ctx context.Context, req *quarry.RemoveRequest) error {
	_, err := ask(ctx, m, "remove", func(c *Cluster) (*struct{}, error) {
		return once(c, req.Op, req.Parent.Slot(), func() (*struct{}, error) {
			parent, err := c.dir(req.Parent, req.Name)
			if err != nil {
				return nil, err
			}
			n := c.inodes[parent.entries[req.Name]]
			switch {
			case n == nil:
				return nil, quarry.Errorf("remove", quarry.NotFound, req.Name, "there is no such name")
			case n.attr.Kind == quarry.KindDir && !req.Dir:
				return nil, quarry.IsDir
			case n.attr.Kind != quarry.KindDir && req.Dir:
				return nil, quarry.NotDir
			case len(n.entries) > 0:
				return nil, quarry.Errorf("remove", quarry.NotEmpty, req.Name, "it has %d entries", len(n.entries))
			}
			delete(parent.entries, req.Name)
			c.discard(n, req.Path, req.Now)
			return &struct{}{}, nil
		})
	})
	return err
}
