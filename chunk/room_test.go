package chunk

import (
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// roomStore opens a store on a disk with 120 MiB for chunks, and 10 MiB in the trash for each number of
// seconds; the first handle belongs to the first of them.
func roomStore(t *testing.T, dropped ...int) (*Store, disk.FS) {
	t.Helper()
	q, err := disk.WithQuota(disk.NewMem(), 150<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := q.MkdirAll(trashName); err != nil {
		t.Fatal(err)
	}
	for i, seconds := range dropped {
		takeRoom(t, q, fmt.Sprintf("trash/%v.%d", quarry.Handle(i+1), seconds), 10<<20)
	}
	opts := testOptions()
	opts.ReserveBytes, opts.JournalBytes = 30<<20, 16<<10
	slow := disk.NewFaulty(q, func(op disk.Op) disk.Fault {
		for i := 0; op.Kind == disk.OpRemove && i < 1000; i++ {
			runtime.Gosched() // others have time to look
		}
		return disk.Fault{}
	})
	return open(t, slow, opts), q
}

// takeRoom makes a file of so many bytes.
func takeRoom(t *testing.T, fsys disk.FS, name string, bytes int64) {
	t.Helper()
	f, err := fsys.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(bytes); err != nil {
		t.Fatal(err)
	}
}

// wantTrash requires that the trash holds these handles, and that 10 MiB are counted for each.
func wantTrash(t *testing.T, s *Store, fsys disk.FS, handles ...quarry.Handle) {
	t.Helper()
	names, err := fsys.List(trashName)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, h := range handles {
		want = append(want, h.String())
	}
	for i := range names {
		names[i] = names[i][:16]
	}
	if fmt.Sprint(names) != fmt.Sprint(want) {
		t.Fatalf("the trash holds %v, it should hold %v", names, want)
	}
	if u, err := s.Usage(); err != nil || u.Trash != int64(len(handles))*10<<20 {
		t.Fatalf("usage %+v, %v, with %d replicas in the trash", u, err, len(handles))
	}
}

// What was dropped counts as free, and goes when its space is wanted: first what was dropped first, and
// no more than is wanted.
func TestTrashMakesRoom(t *testing.T) {
	s, fsys := roomStore(t, 1002, 1001, 1003, 1004)
	u, err := s.Usage()
	if err != nil || u.Free < 119<<20 || u.Free > 120<<20 {
		t.Fatalf("usage %+v, %v", u, err)
	}
	create(t, s, 9) // leaves 16 MiB beside the trash
	wantTrash(t, s, fsys, 1, 2, 3, 4)
	in, err := s.Receive(copyRequest(10, make([]byte, 20<<20)))
	if err != nil {
		t.Fatal(err)
	}
	wantTrash(t, s, fsys, 1, 3, 4)
	takeRoom(t, fsys, "foreign", 6<<20)
	if made, err := s.MakeRoom(t.Context(), 8<<20); !made || err != nil {
		t.Fatal(made, err)
	}
	wantTrash(t, s, fsys, 3, 4)
	if made, err := s.MakeRoom(t.Context(), 8<<20); !made || err != nil {
		t.Fatal(made, err)
	}
	wantTrash(t, s, fsys, 3, 4)
	wantKind(t, second(s.Receive(copyRequest(11, make([]byte, 40<<20)))), quarry.NoSpace)
	wantTrash(t, s, fsys)
	if made, err := s.MakeRoom(t.Context(), 40<<20); made || err != nil {
		t.Fatal(made, err)
	}
	in.Abort()
	if made, err := s.MakeRoom(t.Context(), 40<<20); !made || err != nil {
		t.Fatal(made, err)
	}
}

// Several who want the last room at the same time all get it, though each of them finds the trash
// empty while the others are emptying it.
func TestTrashMakesRoomForAll(t *testing.T) {
	for range 20 {
		s, fsys := roomStore(t, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
		takeRoom(t, fsys, "foreign", 9<<20)
		var all sync.WaitGroup
		for h := range quarry.Handle(22) {
			all.Go(func() {
				if _, err := s.Receive(copyRequest(20+h, make([]byte, 5<<20))); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if t.Failed() {
			return
		}
		wantTrash(t, s, fsys)
	}
}
