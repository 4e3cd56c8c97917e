package test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestHungDisk has the disk of an open chunk's primary hang, so that nothing comes back from it, while
// records are appended: they go on elsewhere long before the disk is given up, and when it comes to,
// everything that was acknowledged is there. The binary is that of a test build, whose disks hang when
// they are told to.
func TestHungDisk(t *testing.T) {
	t.Parallel()
	hanging, err := mutant()
	if err != nil {
		t.Fatal(err)
	}
	s := newSystem(t, options{program: hanging})
	const path = "/log"
	s.run("", "append", "--create", path)
	places := []map[int]int64{{}}
	ctx, cancel := context.WithCancel(s.ctx)
	var last, longest atomic.Int64 // times since the test began
	began := time.Now()
	var work sync.WaitGroup
	work.Go(func() {
		a, err := s.fs.Appender(s.ctx, path)
		if err != nil {
			t.Error(err)
			return
		}
		defer a.Close()
		for number := 0; ctx.Err() == nil; number++ {
			offset, err := a.Append(s.ctx, record(0, number))
			if err != nil {
				t.Error(err)
				return
			}
			places[0][number] = offset
			now := int64(time.Since(began))
			longest.Store(max(longest.Load(), now-last.Swap(now)))
		}
	})
	rounds := 2
	if long() {
		rounds = 20
	}
	var took []time.Duration
	for range rounds {
		var primary *process
		var members []*process
		s.eventually("a primary among servers that are well", time.Minute, func() bool {
			members = s.tail(path)
			if len(members) > 2 {
				primary = members[0]
			}
			return len(members) > 2
		})
		hang := filepath.Join(s.dir, "s"+strings.TrimPrefix(primary.name, "server-")+".hang")
		longest.Store(0)
		if err := os.WriteFile(hang, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		hung := int64(time.Since(began))
		s.eventually("appends without the primary", time.Minute, func() bool {
			return last.Load() > hung+int64(time.Second) && !slices.Contains(s.tail(path), primary)
		})
		took = append(took, time.Duration(longest.Load()))
		if text, err := os.ReadFile(primary.log); err != nil || strings.Contains(string(text), "a disk is retired") {
			t.Errorf("its disk was given up before appends went on (%v)", err)
		}
		if err := os.Remove(hang); err != nil {
			t.Fatal(err)
		}
		s.healthy()
	}
	cancel()
	work.Wait()
	slices.Sort(took)
	t.Logf("without an acknowledged append: median %v, longest %v of %d", took[len(took)/2], took[len(took)-1], rounds)
	checkLog(t, readAll(t, s, path), places)
}
