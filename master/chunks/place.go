package chunks

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"math"
	"net"
	"slices"
	"time"

	"github.com/quarryfs/quarry"
)

// site is a server as a place for replicas, at one instant.
type site struct {
	quarry.Member               // without a disk
	disks         []diskRoom    // those with room for a chunk
	load          float64       // bytes in flight, in chunks
	recent        float64       // replicas placed there lately
	suspected     time.Duration // for so much longer it is passed over; 0: it is not
}

// diskRoom is a disk and the bytes that are free for chunks.
type diskRoom struct {
	disk quarry.DiskID
	free int64
}

// wish is what a placement is to be like.
type wish struct {
	handle quarry.Handle
	copies int
	host   string                   // of the writer; "" if not known
	not    map[quarry.ServerID]bool // servers that will not do
	racks  map[string]bool          // racks that have a replica already
}

// place chooses servers and disks for replicas of one chunk: on distinct servers always, on
// distinct racks while there are any, the writer's own host first. Servers that a writer
// complained of lately are taken only if fewer than two others are left, as many as are lacking
// for that, the least suspect ones. The choice is
// random by the handle, weighted by free space, load and recent placements; the same inputs
// give the same answer.
//
// It returns fewer members than wished if there are fewer servers, none if there are none.
func place(sites []site, w wish) []quarry.Member {
	sites = eligible(sites, w)
	scores := make([]float64, len(sites))
	for i := range sites {
		scores[i] = score(w.handle, &sites[i], mean(sites))
	}
	racks := make(map[string]bool, len(w.racks)+w.copies)
	for r := range w.racks {
		racks[r] = true
	}
	members := make([]quarry.Member, 0, w.copies)
	taken := make([]bool, len(sites))
	for len(members) < min(w.copies, len(sites)) {
		best := -1
		for i := range sites {
			if !taken[i] && (best < 0 || better(&sites[i], &sites[best], scores[i], scores[best], racks, w.host, len(members) == 0)) {
				best = i
			}
		}
		taken[best] = true
		m := sites[best].Member
		m.Disk = chooseDisk(w.handle, sites[best].disks)
		racks[m.Rack] = true
		members = append(members, m)
	}
	return members
}

// eligible returns the sites that may be chosen.
func eligible(sites []site, w wish) []site {
	var good, doubtful []site
	for _, s := range sites {
		switch {
		case w.not[s.Server] || len(s.disks) == 0:
		case s.suspected > 0:
			doubtful = append(doubtful, s)
		default:
			good = append(good, s)
		}
	}
	if lack := min(2, w.copies) - len(good); lack > 0 {
		slices.SortStableFunc(doubtful, func(a, b site) int { return cmp.Compare(a.suspected, b.suspected) })
		good = append(good, doubtful[:min(lack, len(doubtful))]...)
	}
	return good
}

// better compares two sites for the next replica.
func better(a, b *site, scoreA, scoreB float64, racks map[string]bool, host string, first bool) bool {
	if first && host != "" {
		if x, y := hostOf(a.Address) == host, hostOf(b.Address) == host; x != y {
			return x
		}
	}
	if x, y := racks[a.Rack], racks[b.Rack]; x != y {
		return y
	}
	return scoreA > scoreB
}

// score is weighted rendezvous hashing: the chance that a site's score is the highest is
// its share of all weights.
func score(h quarry.Handle, s *site, meanRecent float64) float64 {
	var free int64
	for _, d := range s.disks {
		free += d.free
	}
	weight := float64(free) * (1 + meanRecent) / (1 + s.recent) / (1 + s.load)
	return -weight / math.Log(uniform(h, uint64(s.Server), quarry.DiskID{}))
}

func chooseDisk(h quarry.Handle, disks []diskRoom) quarry.DiskID {
	var disk quarry.DiskID
	top := math.Inf(-1)
	for _, d := range disks {
		if s := -float64(d.free) / math.Log(uniform(h, 0, d.disk)); s > top {
			top, disk = s, d.disk
		}
	}
	return disk
}

// uniform returns a number in (0, 1) that depends on its arguments only.
func uniform(h quarry.Handle, server uint64, disk quarry.DiskID) float64 {
	var b [32]byte
	binary.BigEndian.PutUint64(b[:8], uint64(h))
	binary.BigEndian.PutUint64(b[8:16], server)
	copy(b[16:], disk[:])
	f := fnv.New64a()
	f.Write(b[:])
	x := f.Sum64()
	x = (x ^ x>>33) * 0xff51afd7ed558ccd // the last bytes must reach the first bits
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	x ^= x >> 33
	return (float64(x>>11) + 0.5) / (1 << 53)
}

func mean(sites []site) float64 {
	sum := 0.0
	for i := range sites {
		sum += sites[i].recent
	}
	return sum / float64(max(1, len(sites)))
}

// hostOf returns the host of an address host:port, or the address.
func hostOf(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}
