package root

import (
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// AddMaster makes a master known, or notes a known one's address. A disk that is known gives
// the node it has: so the same command again gives the same number. Exists: the node's number
// is that of another disk. Result: Node.
type AddMaster struct {
	Master quarry.MasterNode // Node 0: the next number
}

func (*AddMaster) kind() Kind { return KindAddMaster }

func (c *AddMaster) fields(w *wire.Walk) { wire.Message(w, 10, &c.Master, masterFields) }

func (c *AddMaster) apply(t *tx, r *Result) error {
	m := c.Master
	switch {
	case t.header.Cluster.IsZero():
		return errNotMade
	case m.Disk.IsZero() || m.Node > nodeMax:
		return refuse(quarry.Invalid, "a master needs a disk, and a number of at most %d", nodeMax)
	}
	known := false
	for _, other := range all(&t.state, tableMaster, masterFields) {
		switch {
		case other.Disk == m.Disk && (m.Node == 0 || m.Node == other.Node):
			m.Node, known = other.Node, true
		case other.Disk == m.Disk:
			return refuse(quarry.Exists, "the disk belongs to node %d", other.Node)
		case other.Node == m.Node:
			return refuse(quarry.Exists, "node %d has another disk, %v", m.Node, other.Disk)
		}
	}
	if !known {
		switch {
		case t.header.Masters == mastersMax:
			return refuse(quarry.Busy, "there are %d masters already", mastersMax)
		case m.Node == 0:
			m.Node = t.header.NextNode
		case m.Node < t.header.NextNode:
			return refuse(quarry.Invalid, "node %d was used; its number is not given again", m.Node)
		}
		t.header.Masters++
		t.header.NextNode = m.Node + 1
	}
	put(t, masterKey(m.Node), &m, masterFields)
	r.Node = m
	return nil
}

// RemoveMaster forgets a master; one that is not known is a success. Invalid: it is the last.
type RemoveMaster struct{ Node quarry.NodeID }

func (*RemoveMaster) kind() Kind { return KindRemoveMaster }

func (c *RemoveMaster) fields(w *wire.Walk) { wire.Uint(w, 10, &c.Node) }

func (c *RemoveMaster) apply(t *tx, _ *Result) error {
	if _, ok := t.view.Get(masterKey(c.Node)); !ok {
		return nil
	}
	if t.header.Masters == 1 {
		return refuse(quarry.Invalid, "node %d is the last master", c.Node)
	}
	t.header.Masters--
	t.kv.Delete(masterKey(c.Node))
	return nil
}

// AddKey brings a capability key into force; it signs from then on. Its number is the last
// one plus 1, or it is the last key itself, which is a success.
type AddKey struct{ Key quarry.Key }

func (*AddKey) kind() Kind { return KindAddKey }

func (c *AddKey) fields(w *wire.Walk) { wire.Message(w, 10, &c.Key, keyFields) }

func (c *AddKey) apply(t *tx, _ *Result) error {
	var last quarry.Key
	load(&t.state, keyKey(t.header.LastKey), &last, keyFields)
	switch {
	case t.header.Cluster.IsZero():
		return errNotMade
	case c.Key == last:
		return nil
	case t.header.Keys == keysMax:
		return refuse(quarry.Busy, "%d keys are in force; retire one", keysMax)
	case c.Key.Number == 0 || c.Key.Number != t.header.LastKey+1:
		return refuse(quarry.Invalid, "the next key has number %d", t.header.LastKey+1)
	}
	t.header.Keys++
	t.header.LastKey = c.Key.Number
	put(t, keyKey(c.Key.Number), &c.Key, keyFields)
	return nil
}

// RetireKey takes a key out of force: what it signed is worth nothing from then on. A key
// that is not in force is a success. Invalid: it is the one that signs.
type RetireKey struct{ Number uint32 }

func (*RetireKey) kind() Kind { return KindRetireKey }

func (c *RetireKey) fields(w *wire.Walk) { wire.Uint(w, 10, &c.Number) }

func (c *RetireKey) apply(t *tx, _ *Result) error {
	if _, ok := t.view.Get(keyKey(c.Number)); !ok {
		return nil
	}
	if c.Number == t.header.LastKey {
		return refuse(quarry.Invalid, "key %d signs; add another one first", c.Number)
	}
	t.header.Keys--
	t.kv.Delete(keyKey(c.Number))
	return nil
}
