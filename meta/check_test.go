package meta

import (
	"encoding/binary"
	"fmt"
	"reflect"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta/move"
	"github.com/quarryfs/quarry/meta/replica"
	"github.com/quarryfs/quarry/meta/slots"
	"github.com/quarryfs/quarry/wire"
)

// dump is a whole state, read record by record.
type dump struct {
	header   header
	entries  map[quarry.Inode]map[string]entryRecord
	inodes   map[quarry.Inode]*inodeRecord
	pieces   map[quarry.Inode]map[uint64]pieceRecord
	chunks   map[quarry.Handle]*ChunkRecord
	sessions map[quarry.SessionID]SessionRecord
	results  map[quarry.SessionID]int
	txs      map[TxID]Transaction
	intents  []Intent
	derived  map[string]string // the keys of the shard but for the header and the log of changes
	changes  [][]byte          // the log of changes
	foreign  *dump             // the records of slots that the shard does not own
	loose    bool              // inodes and entries need not agree
}

func newDump() *dump {
	return &dump{
		entries: map[quarry.Inode]map[string]entryRecord{}, inodes: map[quarry.Inode]*inodeRecord{},
		pieces: map[quarry.Inode]map[uint64]pieceRecord{}, chunks: map[quarry.Handle]*ChunkRecord{},
		sessions: map[quarry.SessionID]SessionRecord{}, results: map[quarry.SessionID]int{},
		txs: map[TxID]Transaction{}, derived: map[string]string{},
	}
}

func readAll(v View) *dump {
	owned := newDump()
	owned.header, owned.foreign = *reading(v).header, newDump()
	number := first(owned.header.Leaving)
	v.Scan(nil, nil, func(key, value []byte) bool {
		slot, tab, rest := binary.BigEndian.Uint16(key), key[2], key[3:]
		d := owned
		switch {
		case slot == shardSlot && tab == tableChange:
			if number++; lastNumber(key) != number {
				panic(fmt.Sprintf("change %x should be number %d", key, number))
			}
			d.changes = append(d.changes, value)
			return true
		case slot == shardSlot && tab != tableHeader:
			d.derived[string(key)] = string(value)
			return true
		case slot == shardSlot:
			return true
		case !d.header.owns(quarry.Slot(slot)):
			d = d.foreign
		}
		id := binary.BigEndian.Uint64(rest)
		if got := quarry.Inode(id).Slot(); uint16(got) != slot {
			panic(fmt.Sprintf("key %x stands in slot %d", key, slot))
		}
		switch tab {
		case tableEntry:
			var e entryRecord
			decode(key, value, &e, entryFields)
			dir := d.entries[quarry.Inode(id)]
			if dir == nil {
				dir = map[string]entryRecord{}
				d.entries[quarry.Inode(id)] = dir
			}
			dir[string(rest[8:])] = e
		case tableInode:
			i := new(inodeRecord)
			decode(key, value, i, inodeFields)
			d.inodes[quarry.Inode(id)] = i
		case tablePiece:
			var p pieceRecord
			decode(key, value, &p, pieceFields)
			file := d.pieces[quarry.Inode(id)]
			if file == nil {
				file = map[uint64]pieceRecord{}
				d.pieces[quarry.Inode(id)] = file
			}
			file[lastNumber(key)] = p
		case tableChunk:
			c := new(ChunkRecord)
			decode(key, value, c, chunkFields)
			d.chunks[quarry.Handle(id)] = c
		case tableSession:
			var s SessionRecord
			decode(key, value, &s, sessionFields)
			d.sessions[quarry.SessionID(id)] = s
		case tableResult:
			var r resultRecord
			decode(key, value, &r, resultRecordFields)
			if uint16(r.Sequence%WindowOps) != binary.BigEndian.Uint16(rest[8:]) {
				panic("a result is in a wrong place")
			}
			d.results[quarry.SessionID(id)]++
		case tableTx:
			var x Transaction
			decode(key, value, &x, transactionFields)
			d.txs[TxID(id)] = x
		case tableIntent:
			var in Intent
			decode(key, value, &in, intentFields)
			if string(key) != string(intentKey(nil, in.Part.Inode, in.Part.Entry())) {
				panic(fmt.Sprintf("intent %+v has key %x", in, key))
			}
			d.intents = append(d.intents, in)
		default:
			panic(fmt.Sprintf("key %x is of no table", key))
		}
		return true
	})
	return owned
}

// check returns what is wrong with a state, or "". A loose check does not ask whether entries
// and inodes agree.
func check(v View, loose bool) string {
	d := readAll(v)
	d.loose = loose
	want := map[string]string{}
	var n Counters
	index := func(key []byte) { want[string(key)] = "" }
	refs := map[quarry.Handle]uint64{}
	for _, part := range []string{
		d.checkMoves(), d.foreign.count(want, index, &n), d.checkTransactions(index, &n), d.checkTree(&n), d.checkFiles(refs, index, &n), d.checkChunks(refs, want, index, &n), d.checkSessions(index, &n),
	} {
		if part != "" {
			return part
		}
	}
	if !reflect.DeepEqual(d.derived, want) {
		for k := range want {
			if have, ok := d.derived[k]; !ok || have != want[k] {
				return fmt.Sprintf("index entry %x should be %x, is %x, %v", k, want[k], have, ok)
			}
		}
		for k := range d.derived {
			if _, ok := want[k]; !ok {
				return fmt.Sprintf("index entry %x should not be there", k)
			}
		}
	}
	if d.header.Counters != n {
		return fmt.Sprintf("counters are %+v, should be %+v", d.header.Counters, n)
	}
	return ""
}

// checkTree walks the names from the root.
func (d *dump) checkTree(n *Counters) string {
	named := map[quarry.Inode]bool{quarry.RootInode: true}
	for dir, names := range d.entries {
		i := d.inodes[dir]
		if i == nil || i.Kind != quarry.KindDir {
			return fmt.Sprintf("%v has entries and is no directory", dir)
		}
		for name, e := range names {
			to := d.inodes[e.Inode]
			if !d.header.owns(e.Inode.Slot()) || d.loose {
				continue // checkAll looks at it
			}
			switch {
			case to == nil || to.Links != 1 || to.Kind != e.Kind || named[e.Inode]:
				return fmt.Sprintf("entry %q of %v leads to %+v", name, dir, to)
			case d.whole() && (to.Parent != dir || to.Kind == quarry.KindDir && to.Name != name):
				return fmt.Sprintf("entry %q of %v leads to an inode of %v, %q", name, dir, to.Parent, to.Name)
			}
			named[e.Inode] = true
		}
	}
	for id, i := range d.inodes {
		if i.Links > 0 != (named[id] || d.unlinked(id)) && d.whole() && !d.loose {
			return fmt.Sprintf("%v has %d links, named: %v", id, i.Links, named[id])
		}
		if int(i.Entries) != len(d.entries[id]) {
			return fmt.Sprintf("%v has %d entries, says %d", id, len(d.entries[id]), i.Entries)
		}
		if id.Number() >= d.header.NextInode {
			return fmt.Sprintf("%v may be used again", id)
		}
		if i.Kind == quarry.KindDir {
			n.Dirs++
			at := id
			for depth := 0; at != quarry.RootInode && d.inodes[at] != nil; depth++ {
				if d.loose {
					break
				}
				if depth > len(d.inodes) {
					return fmt.Sprintf("%v is in a cycle", id)
				}
				at = d.inodes[at].Parent
			}
		}
	}
	return ""
}

// whole reports whether the shard has the whole tree, and no change of it is under way.
func (d *dump) whole() bool {
	return d.header.ownsAll() && len(d.txs) == 0 && len(d.intents) == 0
}

// unlinked reports whether a transaction has made a directory, or is bringing a file back, that no
// entry leads to yet.
func (d *dump) unlinked(id quarry.Inode) bool {
	for _, in := range d.intents {
		if (in.Part.Kind == PartNew || in.Part.Kind == PartRestore) && in.Part.Inode == id {
			return true
		}
	}
	return false
}

// checkTransactions checks that each transaction that is not decided holds its entry, and
// nobody else does.
func (d *dump) checkTransactions(index func([]byte), n *Counters) string {
	held := map[TxID]int{}
	for _, in := range d.intents {
		n.Intents++
		index(heldKey(nil, in.Tx, in.Part.Inode, in.Part.Entry()))
		if in.Part.Kind == PartSource {
			held[in.Tx]++
			if x, ok := d.txs[in.Tx]; !ok || x.Committed || x.source() != in {
				return fmt.Sprintf("%+v is held for transaction %+v", in, x)
			}
		}
		if dir := d.inodes[in.Part.Inode]; in.Part.Kind != PartMove && in.Part.Kind != PartRestore && (dir == nil || dir.Kind != quarry.KindDir) {
			return fmt.Sprintf("intent %+v is about directory %+v", in, dir)
		}
		if dir := d.inodes[in.Part.Inode]; in.Part.Kind == PartFreeze && dir.Entries > 0 {
			return fmt.Sprintf("%v is frozen and has %d entries", in.Part.Inode, dir.Entries)
		}
	}
	for id, x := range d.txs {
		n.Transactions++
		index(coordinatedKey(nil, id))
		if x.ID != id || x.Committed != (held[id] == 0) || x.Committed != (len(x.Parts) > 0) {
			return fmt.Sprintf("transaction %+v holds %d entries", x, held[id])
		}
	}
	return ""
}

func (d *dump) checkFiles(refs map[quarry.Handle]uint64, index func([]byte), n *Counters) string {
	for id, pieces := range d.pieces {
		if i := d.inodes[id]; i == nil || i.Kind != quarry.KindFile {
			return fmt.Sprintf("%v has pieces and is no file", id)
		}
		for _, p := range pieces {
			if p.Handle != 0 {
				refs[p.Handle]++
			}
		}
	}
	for id, i := range d.inodes {
		if i.Kind != quarry.KindFile {
			continue
		}
		pieces := d.pieces[id]
		tail, open := pieces[openEnd]
		if i.Links == 0 {
			n.Removed++
			n.RemovedBytes += i.Length
			if i.Doomed {
				n.Doomed++
				n.DoomedBytes += i.Length
			}
			if i.Removed == 0 {
				return fmt.Sprintf("removed file %v is not in the queue", id)
			}
			index(i.queueKey(nil, id))
			continue
		}
		n.Files++
		if i.Removed != 0 || i.Doomed {
			return fmt.Sprintf("file %v is removed since %d, doomed: %v", id, i.Removed, i.Doomed)
		}
		if open != i.Open || open && tail.Length != 0 {
			return fmt.Sprintf("%v: open %v, tail %+v", id, i.Open, tail)
		}
		end, count := i.Length, len(pieces)
		if open {
			count--
		}
		for ; end > 0; count-- { // backwards, piece by piece
			p, ok := pieces[uint64(end)]
			switch {
			case !ok || p.Length <= 0 || p.Length > end:
				return fmt.Sprintf("%v has no piece that ends at %d", id, end)
			case p.Kind == quarry.PieceInline && (p.Length != int64(len(p.Inline)) || p.Handle != 0):
				return fmt.Sprintf("%v has inline piece %+v", id, p)
			case p.Kind == quarry.PieceChunk && (d.chunks[p.Handle] == nil || !d.chunks[p.Handle].LengthKnown ||
				p.ChunkOffset+p.Length > d.chunks[p.Handle].Length):
				return fmt.Sprintf("%v has piece %+v of chunk %+v", id, p, d.chunks[p.Handle])
			}
			end -= p.Length
		}
		if end != 0 || count != 0 {
			return fmt.Sprintf("%v: pieces do not cover it: %+v", id, pieces)
		}
		for _, p := range pieces {
			if p.Handle != 0 && !i.Chunks {
				return fmt.Sprintf("%v denies that it has chunks", id)
			}
		}
	}
	return ""
}

// first is the number of the last change that is not kept any more.
func first(l *move.Leaving) uint64 {
	if l == nil || l.Lost {
		return 0
	}
	return l.Forgotten
}

// moved reports whether slots have moved: then sessions and the chunks they own may be at
// different shards.
func (d *dump) moved() bool {
	return d.header.LastLeft > 0 || d.header.LastTaken > 0 || d.header.Leaving != nil
}

// checkMoves checks that the log of changes is whole, and that every record of a slot that is not
// owned is there for a reason.
func (d *dump) checkMoves() string {
	h := &d.header
	var reasons []quarry.SlotRange
	kept := uint64(0)
	if l := h.Leaving; l != nil {
		if kept = l.Changes - l.Forgotten; l.Lost {
			kept = 0
		}
		if l.Released {
			reasons = slots.Join(reasons, l.Slots)
		}
		for _, key := range d.changes {
			if !slots.Has(l.Slots, quarry.Slot(binary.BigEndian.Uint16(key))) {
				return fmt.Sprintf("change %x is not of the move's slots", key)
			}
		}
	}
	if h.Taking != nil {
		reasons = slots.Join(reasons, h.Taking.Slots)
	}
	reasons = slots.Join(reasons, h.Remains)
	switch {
	case uint64(len(d.changes)) != kept:
		return fmt.Sprintf("%d changes are kept, %+v says otherwise", len(d.changes), h.Leaving)
	case len(h.Slots) > 0 && !slots.InOrder(h.Slots) || slots.Meet(h.Slots, reasons):
		return fmt.Sprintf("slots %v are owned and %v are not", h.Slots, reasons)
	}
	for s := range d.foreign.slots() {
		if !slots.Has(reasons, s) {
			return fmt.Sprintf("there are records of slot %d, which is neither owned nor moves", s)
		}
	}
	return ""
}

// slots returns the slots of the records.
func (d *dump) slots() map[quarry.Slot]bool {
	all := map[quarry.Slot]bool{}
	for id := range d.entries {
		all[id.Slot()] = true
	}
	for id := range d.inodes {
		all[id.Slot()] = true
	}
	for id := range d.pieces {
		all[id.Slot()] = true
	}
	for h := range d.chunks {
		all[h.Slot()] = true
	}
	for id := range d.sessions {
		all[SessionSlot(id)] = true
	}
	return all
}

// count adds what the records of slots that are not owned have in indexes and counters, whatever
// else is wrong with them: they may be a part of what there is.
func (d *dump) count(want map[string]string, index func([]byte), n *Counters) string {
	for id, i := range d.inodes {
		switch {
		case i.Kind == quarry.KindDir:
			n.Dirs++
		case i.Links > 0:
			n.Files++
		default:
			n.Removed++
			n.RemovedBytes += i.Length
			if i.Doomed {
				n.Doomed++
				n.DoomedBytes += i.Length
			}
			index(i.queueKey(nil, id))
		}
	}
	for h, c := range d.chunks {
		open := c.State == quarry.ChunkOpen || c.State == quarry.ChunkSealing
		d.countChunk(c, open, n)
		indexChunk(h, c, open, want, index)
	}
	for id, s := range d.sessions {
		n.Sessions++
		index(expiryKey(nil, s.Seen, id))
	}
	for id := range d.txs {
		n.Transactions++
		index(coordinatedKey(nil, id))
	}
	for _, in := range d.intents {
		n.Intents++
		index(heldKey(nil, in.Tx, in.Part.Inode, in.Part.Entry()))
	}
	return ""
}

// indexChunk says which entries of indexes a chunk has.
func indexChunk(h quarry.Handle, c *ChunkRecord, open bool, want map[string]string, index func([]byte)) {
	if (open || c.Count(ReplicaPending) > 0) && !c.Doomed {
		index(activeKey(nil, h))
	}
	if !open && c.Freed == 0 && c.Copies() < int(c.Wanted) {
		index(repairKey(nil, uint8(c.Copies()), h))
	}
	if c.Freed != 0 && !c.Doomed {
		index(garbageKey(nil, c.Freed, garbageChunk, uint64(h)))
	}
	if c.Owner != 0 {
		index(ownedKey(nil, c.Owner, h))
	}
	for _, r := range c.Replicas {
		index(serverKey(nil, r.Server, h))
		if r.Owes != 0 {
			item := quarry.Item{Kind: r.Owes, Version: r.OwesVersion}
			want[string(itemKey(nil, r.Server, h))] = string(wire.Marshal(nil, &item, replica.ItemFields))
		}
	}
}

func (d *dump) checkChunks(refs map[quarry.Handle]uint64, want map[string]string, index func([]byte), n *Counters) string {
	for h := range refs {
		if d.chunks[h] == nil {
			return fmt.Sprintf("a piece names chunk %v, which has no record", h)
		}
	}
	for h, c := range d.chunks {
		open := c.State == quarry.ChunkOpen || c.State == quarry.ChunkSealing
		dropping := c.Count(ReplicaDropping)
		switch {
		case c.Handle != h || h.Number() >= d.header.NextHandle:
			return fmt.Sprintf("chunk %v is recorded as %v", h, c.Handle)
		case c.Refs != refs[h]:
			return fmt.Sprintf("chunk %v has %d references, says %d", h, refs[h], c.Refs)
		case c.Refs > 0 && c.Owner != 0, c.Freed != 0 && (c.Refs > 0 || c.Owner != 0 || open), c.Doomed && c.Freed == 0:
			return fmt.Sprintf("chunk %+v is needed and is not", c)
		case !open && c.Orphan():
			return fmt.Sprintf("chunk %+v is needed by nobody and no garbage", c)
		case c.Version.Writable() != (c.State == quarry.ChunkOpen):
			return fmt.Sprintf("chunk %v is %v at version %d", h, c.State, c.Version)
		case c.LengthKnown && open, c.State == quarry.ChunkSealed && !c.LengthKnown:
			return fmt.Sprintf("chunk %v is %v, length known: %v", h, c.State, c.LengthKnown)
		case open != (c.Count(ReplicaMember) > 0) || open && c.Count(ReplicaMember) != len(c.Replicas):
			return fmt.Sprintf("chunk %v is %v with members %v", h, c.State, c.Replicas)
		case c.Doomed && (dropping != len(c.Replicas) || dropping == 0):
			return fmt.Sprintf("doomed chunk %v has replicas %v", h, c.Replicas)
		case !c.Doomed && c.State == quarry.ChunkLost && c.Count(ReplicaHolding, ReplicaPending) > 0:
			return fmt.Sprintf("chunk %v is lost and has %v", h, c.Replicas)
		case len(c.Replicas) > listMax || c.Count(ReplicaBad) > 0 && c.Count(ReplicaHolding) > 0:
			return fmt.Sprintf("chunk %v has replicas %v", h, c.Replicas)
		}
		d.countChunk(c, open, n)
		indexChunk(h, c, open, want, index)
		seen := map[quarry.ServerID]bool{}
		for _, r := range c.Replicas {
			if r.Server == 0 || seen[r.Server] || r.Disk.IsZero() || (r.State == ReplicaDropping) != (r.Owes == quarry.ItemDrop) {
				return fmt.Sprintf("chunk %v has replicas %v", h, c.Replicas)
			}
			seen[r.Server] = true
		}
	}
	return ""
}

func (d *dump) countChunk(c *ChunkRecord, open bool, n *Counters) {
	for _, x := range []struct {
		is bool
		n  *int64
	}{
		{true, &n.Chunks}, {open, &n.Open}, {c.Suspect, &n.Suspect}, {c.Freed != 0, &n.Garbage},
		{!open && c.Freed == 0 && c.Copies() < int(c.Wanted), &n.UnderCopied},
		{!open && c.Freed == 0 && c.Copies() == 0, &n.Missing},
	} {
		if x.is {
			*x.n++
		}
	}
	for _, r := range c.Replicas {
		if r.Owes != 0 {
			n.Items++
		}
	}
}

func (d *dump) checkSessions(index func([]byte), n *Counters) string {
	owned := map[quarry.SessionID]uint64{}
	for _, c := range d.chunks {
		if c.Owner != 0 {
			owned[c.Owner]++
		}
	}
	for id := range owned {
		if _, ok := d.sessions[id]; !ok && !d.moved() {
			return fmt.Sprintf("session %x owns chunks and has no record", id)
		}
	}
	for id, s := range d.sessions {
		n.Sessions++
		if s.Owned != owned[id] && !d.moved() {
			return fmt.Sprintf("session %x owns %d chunks, says %d", id, owned[id], s.Owned)
		}
		index(expiryKey(nil, s.Seen, id))
	}
	for id, count := range d.results {
		if _, ok := d.sessions[id]; !ok || count > WindowOps {
			return fmt.Sprintf("%d results of session %x", count, id)
		}
	}
	return ""
}
