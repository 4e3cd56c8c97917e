package master

import (
	"testing"

	"github.com/quarryfs/quarry"
)

// Attributes are set once, at whatever shard the inode lives: the same operation again, at another
// leader, gives the first answer and does not undo what was set since.
func TestSetAttr(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, cluster *testCluster) {
		c := cluster.caller()
		far, err := c.mkdir(quarry.RootInode, "far", farSlot)
		c.check("make far", err, 0)
		file := c.strayed(far, "f")
		set := func(inode quarry.Inode, uid uint32) (req quarry.SetAttrRequest) {
			err := c.once(inode, func(m *Master, op quarry.Op) error {
				req = quarry.SetAttrRequest{Op: op, Inode: inode, SetUID: true, UID: uid}
				reply, err := m.SetAttr(t.Context(), &req)
				if err == nil && (reply.Attr.UID != uid || reply.Attr.Inode != inode) {
					t.Errorf("it is %+v", reply.Attr)
				}
				return err
			})
			c.check("set the owner", err, 0)
			return req
		}
		for _, inode := range []quarry.Inode{quarry.RootInode, far, file} {
			first := set(inode, 5)
			set(inode, 6)
			id := shardOf(inode.Slot())
			before := c.leader(id)
			var to quarry.NodeID
			for _, n := range cluster.nodes {
				if n != before {
					to = n.node
				}
			}
			c.check("hand over", before.Transfer(t.Context(), &quarry.TransferRequest{Shard: id, To: to}), 0)
			m := c.leader(id)
			if m == before {
				t.Fatal("the same leader")
			}
			reply, err := m.SetAttr(t.Context(), &first)
			c.check("send it again", err, 0)
			if reply != nil && reply.Attr.UID != 5 {
				t.Errorf("the first answer is %+v", reply.Attr)
			}
			now, err := m.Stat(t.Context(), &quarry.StatRequest{Inode: inode})
			c.check("look", err, 0)
			if now != nil && now.Attr.UID != 6 {
				t.Errorf("it is %+v", now.Attr)
			}
		}
		c.check("remove the file", c.rm(far, "f", false), 0)
		c.clean()
		err = c.once(file, func(m *Master, op quarry.Op) error {
			_, err := m.SetAttr(t.Context(), &quarry.SetAttrRequest{Op: op, Inode: file, SetUID: true})
			return err
		})
		c.check("of a file in the trash", err, quarry.NotFound)
	})
}
