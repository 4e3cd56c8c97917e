package chunks

import (
	"fmt"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
)

// rig returns n sites on as many racks, one disk of 100 chunks each.
func rig(n int) []site {
	var sites []site
	for i := range n {
		sites = append(sites, site{
			Member: quarry.Member{
				Server: quarry.ServerID(i + 1), Incarnation: 1,
				Address: fmt.Sprintf("10.0.0.%d:7000", i+1), Rack: fmt.Sprintf("rack%d", i),
			},
			disks: []diskRoom{{quarry.DiskID{byte(i + 1)}, 100 * quarry.ChunkBytesMax}},
		})
	}
	return sites
}

func handlesUpTo(n int) func(func(quarry.Handle) bool) {
	return func(yield func(quarry.Handle) bool) {
		for i := range n {
			if !yield(quarry.MakeHandle(7, uint64(i+1))) {
				return
			}
		}
	}
}

func servers(members []quarry.Member) map[quarry.ServerID]bool {
	set := map[quarry.ServerID]bool{}
	for _, m := range members {
		set[m.Server] = true
	}
	return set
}

func TestPlaceTakesDistinctRacksThenDistinctServers(t *testing.T) {
	sites := rig(6)
	for i := range sites {
		sites[i].Rack = fmt.Sprintf("rack%d", i/3) // two racks
	}
	for h := range handlesUpTo(500) {
		members := place(sites, wish{handle: h, copies: 3})
		racks := map[string]bool{}
		for _, m := range members {
			racks[m.Rack] = true
			if m.Disk != (quarry.DiskID{byte(m.Server)}) {
				t.Fatalf("server %d is given disk %v", m.Server, m.Disk)
			}
		}
		if len(members) != 3 || len(servers(members)) != 3 || len(racks) != 2 {
			t.Fatalf("members %v", members)
		}
	}
}

func TestPlaceGivesWhatThereIs(t *testing.T) {
	for n := range 5 {
		if got := len(place(rig(n), wish{handle: 1, copies: 3})); got != min(n, 3) {
			t.Errorf("%d servers: %d members", n, got)
		}
	}
}

func TestPlacePutsTheWritersHostFirst(t *testing.T) {
	sites := rig(9)
	for h := range handlesUpTo(100) {
		members := place(sites, wish{handle: h, copies: 3, host: "10.0.0.4"})
		if members[0].Server != 4 {
			t.Fatalf("the primary is server %d", members[0].Server)
		}
	}
}

func TestPlacePassesOverSuspectsWhileTwoOthersAreLeft(t *testing.T) {
	sites := rig(3)
	sites[0].suspected = 10 * time.Second
	for h := range handlesUpTo(100) {
		if got := servers(place(sites, wish{handle: h, copies: 3})); got[1] || len(got) != 2 {
			t.Fatalf("one suspect of three: members %v", got)
		}
	}
	sites[1].suspected = 9 * time.Second
	for h := range handlesUpTo(100) {
		if got := servers(place(sites, wish{handle: h, copies: 3})); got[1] || len(got) != 2 {
			t.Fatalf("two suspects of three: members %v", got)
		}
	}
	if got := place(sites[:1], wish{handle: 1, copies: 3}); len(got) != 1 {
		t.Fatalf("nobody but a suspect: members %v", got)
	}
}

func TestPlaceLeavesOutTheFailedAndTheFull(t *testing.T) {
	sites := rig(5)
	sites[2].disks = nil
	for h := range handlesUpTo(100) {
		got := servers(place(sites, wish{handle: h, copies: 3, not: map[quarry.ServerID]bool{5: true}}))
		if got[3] || got[5] || len(got) != 3 {
			t.Fatalf("members %v", got)
		}
	}
}

func TestPlaceAvoidsRacksThatHaveAReplica(t *testing.T) {
	for h := range handlesUpTo(100) {
		members := place(rig(3), wish{handle: h, copies: 1, racks: map[string]bool{"rack0": true, "rack1": true}})
		if members[0].Server != 3 {
			t.Fatalf("members %v", members)
		}
	}
}

func TestPlaceSpreadsByWeight(t *testing.T) {
	count := func(change func([]site)) map[quarry.ServerID]int {
		sites := rig(4)
		change(sites)
		n := map[quarry.ServerID]int{}
		for h := range handlesUpTo(4000) {
			n[place(sites, wish{handle: h, copies: 1})[0].Server]++
		}
		return n
	}
	near := func(what string, got, want int) {
		if got < want*85/100 || got > want*115/100 {
			t.Errorf("%s: %d chunks, want about %d", what, got, want)
		}
	}
	even := count(func([]site) {})
	for s, n := range even {
		near(fmt.Sprintf("equal server %d", s), n, 1000)
	}
	near("three times the space", count(func(s []site) { s[0].disks[0].free *= 3 })[1], 2000)
	near("one chunk in flight", count(func(s []site) { s[0].load = 1 })[1], 571)
	near("many lately", count(func(s []site) { s[0].recent = 7 })[1], 160)
}
