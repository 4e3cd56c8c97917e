package chunkserver

import (
	"bytes"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/disk"
)

func TestAppendThroughAChainInOrder(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, _ := w.three()
		w.open(servers...)
		var answers []<-chan answer
		var all []byte
		for seq := range 200 {
			data := text(seq*37+1, byte(seq))
			answers = append(answers, w.append(servers[0], quarry.Sequence(seq+1), data))
			all = append(all, data...)
		}
		at := int64(0)
		for i, c := range answers {
			w.appended(c, at)
			at += int64(i*37 + 1)
		}
		w.appended(w.append(servers[0], 1, text(1, 0)), 0) // again: the place it has
		w.ok(clock.Simulated().Sleep(w.t.Context(), time.Second))
		for _, s := range servers {
			w.holds(s, 1, all) // the commit has come to the secondaries
			if n := s.memory.Load(); n != 0 {
				t.Errorf("server %d counts %d bytes in memory", s.ID(), n)
			}
		}
	})
}

func TestAppendOfBrokenBytesNamesTheHop(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, _ := w.three()
		w.open(servers...)
		got := make(chan error, 1)
		servers[0].Append(w.t.Context(), &quarry.AppendRequest{
			ChunkRef: w.ref(servers[0], 1), Session: 5, Sequence: 1, Oldest: 1, Data: []byte("abc"), CRCs: []uint32{1},
		}, func(_ *quarry.AppendReply, err error) { got <- err })
		w.is(<-got, quarry.Corrupt)

		w.refuse = func(to string, req *quarry.PrepareRequest) error {
			if to == "s3" { // the bytes break between the second and the third
				req.Data = bytes.ToUpper(req.Data)
			}
			return nil
		}
		c := w.append(servers[0], 1, []byte("abc"))
		reports := w.reported()
		if len(reports) != 1 || reports[0].Suspects[0].Server != 3 || !strings.Contains(reports[0].Suspects[0].Why, "checksum") {
			t.Fatalf("reports %+v", reports)
		}
		for _, s := range servers {
			w.fence(s, 2)
		}
		w.is((<-c).err, quarry.StaleVersion) // the fenced primary answers its appends
		if n := servers[0].memory.Load() + servers[1].memory.Load() + servers[2].memory.Load(); n != 0 {
			t.Fatalf("%d bytes stay in memory", n)
		}
	})
}

func TestFenceEndsAppendsThatWaitForASilentMember(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, _ := w.three()
		w.open(servers...)
		quiet := &silent{}
		dial := servers[0].cfg.Dial
		servers[0].cfg.Dial = func(m quarry.Member) quarry.ChunkServer {
			quiet.ChunkServer = dial(m)
			return quiet
		}
		c := w.append(servers[0], 1, []byte("abc"))
		start := clock.Simulated().Now()
		if reply := w.fence(servers[0], 2); reply.DurableLength != 3 {
			t.Fatalf("%+v", reply)
		}
		w.is((<-c).err, quarry.StaleVersion)
		if d := clock.Simulated().Now().Sub(start); d > 100*time.Millisecond {
			t.Fatalf("the answer took %v", d)
		}
	})
}

func TestBusyMemberIsAskedAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, _ := w.three()
		w.open(servers...)
		var refused atomic.Int32
		w.refuse = func(to string, _ *quarry.PrepareRequest) error {
			switch n := refused.Add(1); {
			case to == "s3" && n < 20:
				return quarry.Errorf("prepare", quarry.Busy, "", "no memory")
			case to == "s2" && n == 1:
				return quarry.Errorf("prepare", quarry.Unavailable, "", "the connection broke")
			}
			return nil
		}
		var all []byte
		var answers []<-chan answer
		for i := range 12 { // several batches on their way at once
			data := text(quarry.PacketBytes, byte(i))
			all = append(all, data...)
			answers = append(answers, w.append(servers[0], quarry.Sequence(i+1), data))
		}
		for i, c := range answers {
			w.appended(c, int64(i)*quarry.PacketBytes)
		}
		if r := w.reported(); len(r) > 0 {
			t.Fatalf("reported %+v", r[0])
		}
		w.seal(int64(len(all)), servers...)
	})
}

// Many appenders fill whole batches, but each of them waits: their batches are no stream.
func TestFullBatchOfSmallRecordsIsSyncedAtOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, _ := w.three()
		w.open(servers...)
		hold := make(chan struct{}) // the first is held up, so that the others come together
		w.refuse = func(string, *quarry.PrepareRequest) error {
			<-hold
			return nil
		}
		const records, size = 200, 4 << 10
		start := clock.Simulated().Now()
		var answers []<-chan answer
		go w.append(servers[0], 1, text(size, 0))
		synctest.Wait()
		for i := 1; i < records; i++ {
			answers = append(answers, w.append(servers[0], quarry.Sequence(i+1), text(size, byte(i))))
		}
		close(hold)
		for i, c := range answers {
			w.appended(c, int64(i+1)*size)
		}
		if d := clock.Simulated().Now().Sub(start); d >= streamPause {
			t.Fatalf("the records took %v", d)
		}
	})
}

func TestMemberThatStaysBusyIsReported(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, _ := w.three()
		w.open(servers...)
		w.refuse = func(to string, _ *quarry.PrepareRequest) error {
			return quarry.Errorf("prepare", quarry.Busy, "", "no memory")
		}
		w.append(servers[0], 1, []byte("abc"))
		w.ok(clock.Simulated().Sleep(w.t.Context(), busyMember/2))
		if r := w.reported(); len(r) != 0 {
			t.Fatal("reported too soon")
		}
		w.ok(clock.Simulated().Sleep(w.t.Context(), busyMember))
		if r := w.reported(); len(r) != 1 || r[0].Suspects[0].Server != 2 || r[0].Version != 1 {
			t.Fatalf("%+v", r)
		}
	})
}

func TestMemoryBound(t *testing.T) {
	inWorld(t, func(w *world) {
		s := w.start(1, 1000, disk.NewMem())
		w.open(s)
		w.is((<-w.append(s, 1, text(1001, 'a'))).err, quarry.Busy)
		w.appended(w.append(s, 1, text(1000, 'a')), 0)
		synctest.Wait()
		if n := s.memory.Load(); n != 0 {
			t.Fatalf("%d bytes stay in memory", n)
		}
	})
}

func TestHostileRequests(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, _ := w.three()
		s := servers[1]
		w.open(servers...)
		for name, req := range map[string]*quarry.PrepareRequest{
			"negative length": {Records: []quarry.RecordHeader{{Session: 1, Sequence: 1, Length: -1}}},
			"no records":      {Data: []byte("abc")},
			"too long":        {Records: []quarry.RecordHeader{{Session: 1, Sequence: 1, Length: 1 << 62}}, Data: []byte("abc")},
			"long chain":      {Chain: make([]quarry.Member, 100)},
			"nothing":         {},
		} {
			req.ChunkRef, req.Batch = w.ref(s, 1), 1
			got := make(chan error, 1)
			s.Prepare(w.t.Context(), req, func(_ *quarry.PrepareReply, err error) { got <- err })
			if err := <-got; quarry.KindOf(err) != quarry.Invalid {
				t.Errorf("%s: %v", name, err)
			}
		}
		bare := w.ref(s, 1)
		bare.Capability = quarry.Capability{}
		_, err := s.Read(w.t.Context(), &quarry.ReadRequest{ChunkRef: bare, Length: 1})
		w.is(err, quarry.Permission)
		_, err = s.Read(w.t.Context(), &quarry.ReadRequest{ChunkRef: w.ref(s, 1), Offset: -1, Length: -5, Validated: true})
		w.is(err, quarry.Invalid)
		w.is(s.Copy(w.t.Context(), &quarry.CopyRequest{ChunkRef: w.ref(s, 2), Disk: diskID(2, 0)}), quarry.Invalid)
		if n := s.memory.Load(); n != 0 {
			t.Fatalf("%d bytes stay in memory", n)
		}
	})
}
