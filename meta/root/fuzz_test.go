package root

import (
	"bytes"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// FuzzDecodeResult reads hostile results. What is taken comes back when it is written again.
func FuzzDecodeResult(f *testing.F) {
	r := Result{Server: 1, Incarnation: 2, SameBoot: true, Absent: []quarry.DiskID{disk(1)}, Node: quarry.MasterNode{Node: 1, Disk: disk(2), Address: "a:1"}}
	f.Add(r.Append(nil))
	r.Err = quarry.Errorf("register", quarry.Invalid, "x", "y")
	f.Add(r.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeResult(b)
		if err != nil {
			return
		}
		again := r.Append(nil)
		if r2, err := DecodeResult(again); err != nil || !bytes.Equal(r2.Append(nil), again) {
			t.Fatalf("%x became %x, %v", b, again, err)
		}
	})
}

// FuzzRecords reads each record of the state from hostile bytes.
func FuzzRecords(f *testing.F) {
	script(f).kv.Scan(nil, nil, func(_, value []byte) bool {
		f.Add(bytes.Clone(value))
		return true
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		again(t, b, headerFields)
		again(t, b, masterFields)
		again(t, b, keyFields)
		again(t, b, shardFields)
		again(t, b, wire.SlotRangeFields)
		again(t, b, diskFields)
		again(t, b, serverFields)
		again(t, b, ownerFields)
		again(t, b, moveFields)
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
