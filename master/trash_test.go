package master

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

func (c *caller) undelete(dir quarry.Inode, name string, file quarry.Inode) error {
	return c.once(dir, func(m *Master, op quarry.Op) error {
		_, err := m.Undelete(c.t.Context(), &quarry.UndeleteRequest{Op: op, Parent: dir, Name: name, Inode: file})
		return err
	})
}

// there reports whether an inode is a file, by what its own shard says.
func (c *caller) there(file quarry.Inode) (there bool) {
	c.t.Helper()
	c.until("nobody says what a file is", func() bool {
		m := c.leaderNow(shardOf(file.Slot()))
		if m == nil {
			return false
		}
		_, err := m.Stat(c.t.Context(), &quarry.StatRequest{Inode: file})
		there = err == nil
		return err == nil || quarry.KindOf(err) == quarry.NotFound
	})
	return there
}

// trash returns the files in the trash of a shard.
func (c *caller) trash(id quarry.ShardID) (files []quarry.RemovedFile) {
	c.t.Helper()
	req := &quarry.RemovedRequest{Shard: id, Max: 2}
	for {
		r, err := c.leader(id).Removed(c.t.Context(), req)
		if err != nil {
			c.t.Fatal(err)
		}
		files = append(files, r.Files...)
		if !r.More {
			return files
		}
		req.After, req.AfterFile = r.After, r.AfterFile
	}
}

// strayed makes a file in the root directory's shard whose name is in far's.
func (c *caller) strayed(far quarry.Inode, name string) quarry.Inode {
	c.t.Helper()
	file, err := c.touch(quarry.RootInode, name)
	c.check("make a file", err, 0)
	c.check("move it", c.mv(quarry.RootInode, name, far, name), 0)
	return file
}

// Of many who bring one file back at the same time, to directories of several shards, one does.
func TestUndeleteOnce(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, cluster *testCluster) {
		c := cluster.caller()
		far, err := c.mkdir(quarry.RootInode, "far", farSlot)
		c.check("make far", err, 0)
		file := c.strayed(far, "f")
		for round := range 5 {
			c.clean()
			name := "f"
			for i := range 8 {
				if n := fmt.Sprintf("%d-%d", round-1, i); c.find(far, n) == file || c.find(quarry.RootInode, n) == file {
					name = n
				}
			}
			if dir := quarry.RootInode; c.find(dir, name) == file {
				c.check("remove it", c.rm(dir, name, false), 0)
			} else {
				c.check("remove it", c.rm(far, name, false), 0)
			}
			c.clean()
			if got := c.trash(1); len(got) != 1 || got[0].Inode != file || len(c.trash(2)) != 0 {
				t.Fatalf("the trash has %+v", got)
			}
			errs := make([]error, 8)
			var all sync.WaitGroup
			for i := range errs {
				all.Go(func() {
					dir := far
					if i%2 == 0 {
						dir = quarry.RootInode
					}
					errs[i] = cluster.caller().undelete(dir, fmt.Sprintf("%d-%d", round, i), file)
				})
			}
			all.Wait()
			back := 0
			for _, err := range errs {
				switch quarry.KindOf(err) {
				case 0:
					back++
				case quarry.NotFound:
				default:
					t.Errorf("bring it back: %v", err)
				}
			}
			if back != 1 || !c.there(file) {
				t.Fatalf("the file came back %d times; it is there: %v", back, c.there(file))
			}
		}
		c.clean()
	})
}

// Files are brought back while the collector frees them, and leaders change: each is there, with
// its name, or gone.
func TestUndeleteRacesCollector(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, cluster *testCluster) {
		c := cluster.caller()
		c.check("set how long files are kept", c.leader(quarry.RootShard).KeepTrash(t.Context(), &quarry.TrashRequest{KeepMS: 1000}), 0)
		for _, n := range c.nodes {
			c.until("a master does not know how long files are kept", func() bool {
				return n.trashKeep() == testExpiry // as long as sessions live
			})
		}
		far, err := c.mkdir(quarry.RootInode, "far", farSlot)
		c.check("make far", err, 0)
		const count = 24
		files := make([]quarry.Inode, count)
		for i := range files {
			files[i] = c.strayed(far, fmt.Sprint(i))
		}
		for i := range files {
			c.check("remove it", c.rm(far, fmt.Sprint(i), false), 0)
			c.sleep(50 * time.Millisecond)
		}
		c.sleep(testExpiry - count/2*50*time.Millisecond)
		errs := make([]error, count)
		var all sync.WaitGroup
		for i := range files {
			all.Go(func() {
				c.sleep(time.Duration(i%8) * 200 * time.Millisecond)
				errs[i] = cluster.caller().undelete(far, fmt.Sprint(i), files[i])
			})
		}
		c.sleep(900 * time.Millisecond)
		down := c.leader(1)
		down.stop()
		all.Wait()
		down.start()
		back := 0
		for i, err := range errs {
			switch name := c.find(far, fmt.Sprint(i)); quarry.KindOf(err) {
			case 0:
				if back++; name != files[i] || !c.there(files[i]) {
					t.Errorf("file %d is back as %v, and there: %v", i, name, c.there(files[i]))
				}
			case quarry.NotFound:
				if name != 0 || c.there(files[i]) {
					t.Errorf("file %d is gone, and %v, there: %v", i, name, c.there(files[i]))
				}
			default:
				t.Errorf("bring file %d back: %v", i, err)
			}
		}
		if back == 0 || back == count {
			t.Errorf("%d of %d came back: nothing has raced", back, count)
		}
		c.sleep(2 * testExpiry)
		c.clean()
		_ = c.leader(1).group(1).local(func(v meta.View) error {
			if n := meta.Totals(v); n.Removed != 0 || n.Files != int64(back) {
				t.Errorf("%d files are there and %d removed ones, %d came back", n.Files, n.Removed, back)
			}
			return nil
		})
	})
}
