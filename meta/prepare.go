package meta

import (
	"slices"
	"strconv"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta/part"
	"github.com/quarryfs/quarry/wire"
)

// Prepare makes sure that a part of a transaction can be carried out, and keeps it so: it
// leaves an intent. The same part again succeeds. Busy: another transaction has left an intent
// there; nothing waits for it, so nothing waits in a circle. Of Link: NotFound, NotDir, Exists,
// IsDir; of Freeze: NotFound, NotEmpty; of Restore: NotFound. Result: Part, with its ticket;
// Attr, of New, Move and Restore; Met, with Busy.
type Prepare struct {
	Tx   TxID
	Part Part
}

func (*Prepare) kind() Kind { return KindPrepare }

func (c *Prepare) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.Tx)
	wire.Message(w, 11, &c.Part, part.Fields)
}

func (c *Prepare) apply(t *tx, r *Result) error {
	if err := t.checkSlot(c.Part.Where()); err != nil {
		return err
	}
	if in, ok := t.prepared(c.Tx, &c.Part); ok {
		r.Part = &in.Part
		if i := t.inode(in.Part.Inode); i != nil {
			r.Attr = i.attr(in.Part.Inode)
		}
		return nil
	}
	if t.header.Counters.Intents >= intentsMax {
		return refuse(quarry.Busy, "", "%d intents are kept", intentsMax)
	}
	p := c.Part
	p.Old = 0
	var err error
	switch p.Kind {
	case PartLink:
		err = t.prepareLink(&p, r)
	case PartMove:
		err = t.prepareMove(&p, r)
	case PartNew:
		err = t.prepareNew(&p, r)
	case PartFreeze:
		err = t.prepareFreeze(&p, r)
	case PartRestore:
		err = t.prepareRestore(&p, r)
	default:
		err = refuse(quarry.Invalid, "", "a part of kind %d is not prepared", p.Kind)
	}
	if err != nil {
		return err
	}
	t.header.LastTx++
	p.Ticket = t.header.LastTx
	r.Part = &p
	if !off(IntentNotKept) {
		t.putIntent(Intent{Tx: c.Tx, Part: p})
	}
	return nil
}

// prepared returns the intent that the same part has left before.
func (t *tx) prepared(id TxID, p *Part) (Intent, bool) {
	if p.Kind != PartNew {
		in, ok := t.intent(p)
		return in, ok && in.Tx == id && in.Part.Kind == p.Kind
	}
	for _, in := range t.intentsOf(id) {
		if in.Part.Kind == PartNew {
			return in, true
		}
	}
	return Intent{}, false
}

func (t *tx) prepareLink(p *Part, r *Result) error {
	if _, err := t.place(p.Inode, p.Name, 0, r); err != nil {
		return err
	}
	if p.Target == 0 || p.FileKind != quarry.KindFile && p.FileKind != quarry.KindDir {
		return refuse(quarry.Invalid, strconv.Quote(p.Name), "the entry leads to nothing")
	}
	old, replaced := t.entry(p.Inode, p.Name)
	if !replaced {
		return nil
	}
	if old.Inode == p.Target {
		return refuse(quarry.Invalid, strconv.Quote(p.Name), "the entry leads there already")
	}
	if err := replaceable(p.Name, p.FileKind, old, p.Replace); err != nil {
		return err
	}
	p.Old = old.Inode
	return nil
}

func (t *tx) prepareMove(p *Part, r *Result) error {
	if err := t.free(p, r); err != nil {
		return err
	}
	if err := quarry.CheckName(p.Name); err != nil {
		return err
	}
	i := t.inode(p.Inode)
	if i == nil {
		return refuse(quarry.NotFound, "", "there is no inode %v", p.Inode)
	}
	r.Attr = i.attr(p.Inode)
	return nil
}

// prepareNew makes a directory that no entry leads to; only a commit tells anybody of it.
func (t *tx) prepareNew(p *Part, r *Result) error {
	if err := quarry.CheckName(p.Name); err != nil {
		return err
	}
	if p.Mode > modeMax || p.Inode != 0 {
		return refuse(quarry.Invalid, strconv.Quote(p.Name), "mode %#o, inode %v", p.Mode, p.Inode)
	}
	id, err := t.nextInode(p.Slot)
	if err != nil {
		return err
	}
	p.Inode = id
	made := inodeRecord{
		Kind: quarry.KindDir, Mode: p.Mode, UID: p.UID, GID: p.GID, Links: 1,
		CreatedNS: t.wallNS, ModifiedNS: t.wallNS, Parent: p.Target, Name: p.Name,
	}
	t.putInode(id, &made)
	t.header.Counters.Dirs++
	r.Attr = made.attr(id)
	return nil
}

// prepareFreeze makes sure that a directory is empty and stays so.
func (t *tx) prepareFreeze(p *Part, r *Result) error {
	dir, err := t.dir(p.Inode)
	if err != nil {
		return err
	}
	if dir.Entries > 0 {
		return notEmpty(strconv.Quote(dir.Name), dir)
	}
	return t.untouched(p.Inode, r)
}

// Finish carries out a prepared part of a committed transaction, or undoes the preparation of
// one that was given up. A part whose intent is not there, or has another ticket, is finished
// already: a success. Result: Orphans, of a file that is removed.
type Finish struct {
	Tx     TxID
	Commit bool
	Part   Part
}

func (*Finish) kind() Kind { return KindFinish }

func (c *Finish) fields(w *wire.Walk) {
	wire.Uint(w, 10, &c.Tx)
	wire.Bool(w, 11, &c.Commit)
	wire.Message(w, 12, &c.Part, part.Fields)
}

func (c *Finish) apply(t *tx, r *Result) error {
	if err := t.checkSlot(c.Part.Where()); err != nil {
		return err
	}
	if c.Part.Kind == PartUnlink {
		i := t.inode(c.Part.Inode)
		if c.Commit && i != nil && i.Kind == quarry.KindFile && !slices.Contains(i.Unlinkers, c.Tx) {
			t.unlink(c.Part.Inode, removal{path: c.Part.Path, now: c.Part.Now, tx: c.Tx}, r)
		}
		return nil
	}
	if c.Part.Kind == PartSource || c.Part.Inode == 0 {
		return refuse(quarry.Invalid, "", "a part of kind %d of inode %v is not finished", c.Part.Kind, c.Part.Inode)
	}
	in, ok := t.intent(&c.Part)
	if !ok || in.Tx != c.Tx || in.Part.Kind != c.Part.Kind || in.Part.Ticket != c.Part.Ticket && !off(AnyTicketCounts) {
		return nil
	}
	t.dropIntent(in)
	switch {
	case in.Part.Kind == PartRestore:
		t.finishRestore(in.Part.Inode, c.Commit, r)
	case c.Commit:
		t.carryOut(&in.Part)
	case in.Part.Kind == PartNew:
		t.removeDir(in.Part.Inode)
	}
	return nil
}

// carryOut does what a prepared part says. The intent has kept that possible.
func (t *tx) carryOut(p *Part) {
	switch p.Kind {
	case PartLink:
		dir := t.namedInode(p.Inode)
		t.putEntry(p.Inode, p.Name, entryRecord{p.Target, p.FileKind})
		by := int64(1)
		if p.Old != 0 {
			by = 0
		}
		t.changed(p.Inode, dir, by)
	case PartMove:
		i := t.inode(p.Inode)
		if i == nil {
			return // only an intent that a late message left can outlive its inode
		}
		if i.Parent = p.Target; i.Kind == quarry.KindDir {
			i.Name = p.Name
		}
		t.putInode(p.Inode, i)
	case PartFreeze:
		t.removeDir(p.Inode)
	}
}

func (t *tx) removeDir(id quarry.Inode) {
	t.delete(inodeKey(t.key[:0], id))
	t.header.Counters.Dirs--
}
