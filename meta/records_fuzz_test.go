package meta

import (
	"bytes"
	"testing"

	"github.com/quarryfs/quarry/meta/move"
	"github.com/quarryfs/quarry/meta/replica"
	"github.com/quarryfs/quarry/meta/totals"
	"github.com/quarryfs/quarry/wire"
)

// FuzzRecords reads each record of the state from hostile bytes, as a damaged store or the
// snapshot of a later release may have them.
func FuzzRecords(f *testing.F) {
	kv := NewMemory()
	var m Machine
	for _, command := range commands(script(f)) {
		m.Apply(kv, command)
		kv.Scan(nil, nil, func(_, value []byte) bool {
			f.Add(bytes.Clone(value))
			return true
		})
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		again(t, b, headerFields)
		again(t, b, entryFields)
		again(t, b, inodeFields)
		again(t, b, pieceFields)
		again(t, b, chunkFields)
		again(t, b, replica.Fields)
		again(t, b, sessionFields)
		again(t, b, resultRecordFields)
		again(t, b, replica.ItemFields)
		again(t, b, totals.Fields)
		again(t, b, holderFields)
		again(t, b, move.StateFields)
		again(t, b, move.BatchFields)
	})
}

// again reads a record; what is taken comes back when it is written again.
func again[M any](t *testing.T, b []byte, fields func(*wire.Walk, *M)) {
	var m, m2 M
	if wire.Unmarshal(b, &m, fields) != nil {
		return
	}
	first, err := wire.Append(nil, &m, fields)
	if err != nil {
		t.Fatalf("%+v was read and cannot be written: %v", m, err)
	}
	if err := wire.Unmarshal(first, &m2, fields); err != nil {
		t.Fatalf("%+v was written and cannot be read: %v", m, err)
	}
	if second := wire.Marshal(nil, &m2, fields); !bytes.Equal(first, second) {
		t.Fatalf("%+v became %+v", m, m2)
	}
}

// FuzzDecodeCommand reads hostile commands, as a log has them.
func FuzzDecodeCommand(f *testing.F) {
	for _, command := range commands(script(f)) {
		f.Add(command)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := DecodeCommand(b)
		if err != nil {
			return
		}
		first, err := c.Append(nil)
		if err != nil {
			t.Fatalf("%+v was read and cannot be written: %v", c, err)
		}
		if c2, err := DecodeCommand(first); err != nil {
			t.Fatalf("%+v was written and cannot be read: %v", c, err)
		} else if second, err := c2.Append(nil); err != nil || !bytes.Equal(first, second) {
			t.Fatalf("%+v became %+v, %v", c, c2, err)
		}
	})
}
