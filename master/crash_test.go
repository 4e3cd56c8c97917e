package master

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/disk/crashtest"
)

// TestOriginCrash crashes the disk while a master comes to its cluster: it has come to it or
// not, and once it has said so, it has.
func TestOriginCrash(t *testing.T) {
	want := &origin{Version: originVersion, Node: 1, Init: &quarry.InitRequest{
		Cluster: quarry.ClusterID{1}, Shards: 2, Key: quarry.Key{Number: 1, Secret: [32]byte{9}},
		Masters: []quarry.MasterNode{{Node: 1, Disk: quarry.DiskID{7}, Address: "m1:1"}},
	}}
	crashtest.Table(t, nil, func(t *testing.T, syncs *crashtest.Syncs) (r crashtest.Result) {
		m := disk.NewMem()
		saved := false
		var look func(m *disk.Mem, depth int, what string)
		save := func(m *disk.Mem, depth int, what string) error {
			return want.save(disk.NewFaulty(m, func(op disk.Op) disk.Fault {
				look(m, depth, fmt.Sprintf("%sbefore %v", what, op))
				return syncs.Fault(op)
			}))
		}
		look = func(m *disk.Mem, depth int, what string) {
			m.Images(100, func(image *disk.Mem) {
				r.Images++
				got, err := loadOrigin(image)
				if err == nil && got == nil && !saved {
					if depth > 0 { // the next process is told again, and crashes, too
						err = save(image, depth-1, what+", and again ")
					}
					if err == nil {
						got, err = loadOrigin(image)
					}
					if err == nil && got == nil && depth == 0 {
						return
					}
				}
				if err != nil || !reflect.DeepEqual(got, want) {
					if r.Lost++; r.First == "" {
						r.First = fmt.Sprintf("%s: %+v, %v", what, got, err)
					}
				}
			})
		}
		if err := save(m, 1, ""); err != nil {
			t.Error(err)
		}
		saved = true
		look(m, 0, "at the end")
		return r
	})
}
