package master

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/meta"
	"github.com/quarryfs/quarry/wire"
)

// FuzzOrigin reads hostile files of a cluster, with the right magic and checksum if mend is
// set.
func FuzzOrigin(f *testing.F) {
	for _, o := range []*origin{
		{Version: originVersion, Node: 1, Init: &quarry.InitRequest{
			Cluster: quarry.ClusterID{1}, Shards: 2, Key: quarry.Key{Number: 1, Secret: [32]byte{9}},
			Masters: []quarry.MasterNode{{Node: 1, Disk: quarry.DiskID{7}, Address: "m1:1"}},
		}},
		{Version: originVersion, Node: 4, Join: &quarry.JoinRequest{
			Cluster: quarry.ClusterID{1}, Node: quarry.MasterNode{Node: 4, Disk: quarry.DiskID{8}, Address: "m4:1"},
			Masters: []quarry.MasterNode{{Node: 1, Disk: quarry.DiskID{7}, Address: "m1:1"}}, Shards: []quarry.ShardID{0, 1},
		}},
	} {
		f.Add(wire.Marshal(nil, o, originFields), true)
		m := disk.NewMem()
		if err := o.save(m); err != nil {
			f.Fatal(err)
		}
		f.Add(fileBytes(f, m, originName), false)
	}
	f.Fuzz(func(t *testing.T, b []byte, mend bool) {
		if mend {
			b = append([]byte(originMagic), b...)
			b = append(b, checksum(b)...)
		}
		m := disk.NewMem()
		w, err := m.Create(originName)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteAt(b, 0); err != nil {
			t.Fatal(err)
		}
		o, err := loadOrigin(m)
		if err != nil {
			if k := quarry.KindOf(err); k != quarry.Corrupt && k != quarry.Unsupported {
				t.Fatal(err)
			}
			return
		}
		if o == nil {
			t.Fatal("a file that is there was taken for none")
		}
		_, _ = o.groups()
		_ = o.cluster()
		if err := o.save(m); err != nil {
			t.Fatal(err)
		}
		if again, err := loadOrigin(m); err != nil || !reflect.DeepEqual(again, o) {
			t.Fatalf("%+v became %+v, %v", o, again, err)
		}
	})
}

func fileBytes(t testing.TB, fsys disk.FS, name string) []byte {
	size, err := fsys.Size(name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := fsys.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	if _, err := r.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(b)
}

// FuzzPart reads the head of a part of a snapshot.
func FuzzPart(f *testing.F) {
	f.Add(wire.Marshal(nil, &part{Stream: 1 << 63, Number: 9, Last: true}, partFields))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p, again part
		if wire.Unmarshal(b, &p, partFields) != nil {
			return
		}
		if err := wire.Unmarshal(wire.Marshal(nil, &p, partFields), &again, partFields); err != nil || again != p {
			t.Fatalf("%+v became %+v, %v", p, again, err)
		}
	})
}

// FuzzAsk reads hostile questions and answers of other masters.
func FuzzAsk(f *testing.F) {
	c := meta.Command{Body: &meta.Prepare{Tx: 9, Part: meta.Part{Kind: meta.PartNew, Name: "n", Slot: 3000}}}
	command, err := c.Append(nil)
	if err != nil {
		f.Fatal(err)
	}
	x := meta.Transaction{ID: 9, Verb: meta.KindRename, Name: "a", ToName: "b", Parts: []meta.Part{{Kind: meta.PartMove, Inode: 7, Ticket: 3}}}
	r := meta.Result{Err: quarry.Errorf("prepare", quarry.Busy, "", "held"), Met: &meta.Intent{Tx: 8}}
	f.Add(wire.Marshal(nil, &question{Verb: askApply, Slot: 3000, Command: command}, questionFields))
	f.Add(wire.Marshal(nil, &question{Verb: askClimb, From: 7, Dir: 8, Tx: 5}, questionFields))
	f.Add(wire.Marshal(nil, &answer{Known: true, Transaction: x.Append(nil), Holder: 4}, answerFields))
	f.Add(wire.Marshal(nil, &answer{Result: r.Append(nil), Inode: 6}, answerFields))
	f.Fuzz(func(t *testing.T, b []byte) {
		var q, q2 question
		if wire.Unmarshal(b, &q, questionFields) == nil {
			_, _ = meta.DecodeCommand(q.Command)
			again := wire.Marshal(nil, &q, questionFields)
			if err := wire.Unmarshal(again, &q2, questionFields); err != nil || !bytes.Equal(wire.Marshal(nil, &q2, questionFields), again) {
				t.Fatalf("%+v became %+v, %v", q, q2, err)
			}
		}
		var a, a2 answer
		if wire.Unmarshal(b, &a, answerFields) == nil {
			_, _ = meta.DecodeResult(a.Result)
			_, _ = meta.DecodeTransaction(a.Transaction)
			again := wire.Marshal(nil, &a, answerFields)
			if err := wire.Unmarshal(again, &a2, answerFields); err != nil || !bytes.Equal(wire.Marshal(nil, &a2, answerFields), again) {
				t.Fatalf("%+v became %+v, %v", a, a2, err)
			}
		}
	})
}
