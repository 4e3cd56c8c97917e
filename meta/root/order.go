package root

import (
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/wire"
)

// TakeOrder gives a transaction the right to give a directory another parent, which one
// transaction at a time has in the whole cluster. The one that has it succeeds again. Busy:
// another one has it. Result: Holder, with Busy.
type TakeOrder struct{ Tx meta.TxID }

func (*TakeOrder) kind() Kind { return KindTakeOrder }

func (c *TakeOrder) fields(w *wire.Walk) { wire.Uint(w, 10, &c.Tx) }

func (c *TakeOrder) apply(t *tx, r *Result) error {
	o := t.loadOrder()
	switch {
	case t.header.Cluster.IsZero():
		return errNotMade
	case c.Tx == 0:
		return refuse(quarry.Invalid, "no transaction is named")
	case o.Holder == c.Tx:
		return nil
	case o.Holder != 0:
		r.Holder = o.Holder
		return refuse(quarry.Busy, "transaction %x is moving a directory", uint64(o.Holder))
	}
	put(t, orderKey(), &order{Holder: c.Tx}, orderFields)
	return nil
}

// EndOrder gives the right back. A transaction that does not have it is a success.
type EndOrder struct{ Tx meta.TxID }

func (*EndOrder) kind() Kind { return KindEndOrder }

func (c *EndOrder) fields(w *wire.Walk) { wire.Uint(w, 10, &c.Tx) }

func (c *EndOrder) apply(t *tx, _ *Result) error {
	if o := t.loadOrder(); o.Holder == c.Tx {
		t.kv.Delete(orderKey())
	}
	return nil
}

// order is who has the right to move a directory.
type order struct{ Holder meta.TxID }

func orderFields(w *wire.Walk, o *order) { wire.Uint(w, 1, &o.Holder) }

func orderKey() []byte { return []byte{tableOrder} }

func (s *state) loadOrder() (o order) {
	load(s, orderKey(), &o, orderFields)
	return o
}

// OrderHolder returns the transaction that has the right to move a directory; 0: nobody has.
func OrderHolder(v meta.View) meta.TxID {
	s := state{v}
	return s.loadOrder().Holder
}
