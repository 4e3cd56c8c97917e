package chunkserver

import (
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/rpc"
)

// closedDisk is a disk whose files the system does not open once more while it is shut.
type closedDisk struct {
	disk.FS
	shut atomic.Bool
}

type closedFile struct {
	disk.File
	disk *closedDisk
}

func (d *closedDisk) Open(name string) (disk.File, error)   { return d.file(d.FS.Open(name)) }
func (d *closedDisk) Create(name string) (disk.File, error) { return d.file(d.FS.Create(name)) }

func (d *closedDisk) file(f disk.File, err error) (disk.File, error) {
	if err != nil {
		return nil, err
	}
	return closedFile{f, d}, nil
}

func (f closedFile) Fd() (uintptr, bool) {
	if f.disk.shut.Load() {
		return 1 << 30, true // there is no such descriptor
	}
	return f.File.Fd()
}

// logged is what servers log, each line by itself, as far as there is room.
type logged chan string

func (l logged) Write(p []byte) (int, error) {
	select {
	case l <- string(p):
	default:
	}
	return len(p), nil
}

// realWorld is a world with the machine's clock, disk and sockets, and what its servers log.
func realWorld(t *testing.T) (w *world, fsys *closedDisk, log logged) {
	t.Helper()
	osFS, err := disk.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	log = make(logged, 1000)
	w = &world{
		t: t, keys: quarry.Keys{{Number: 1, Secret: [32]byte{1}}}, servers: map[string]*Server{},
		beats: map[quarry.ServerID]*quarry.HeartbeatRequest{}, clock: clock.System(), log: slog.NewTextHandler(log, nil),
		grants: []quarry.Grant{{Shard: 1, Term: 1, EndMS: 2000, ReadMS: 10000, Slots: []quarry.SlotRange{{First: 0, Last: quarry.Slots - 1}}}},
	}
	t.Cleanup(func() {
		for _, s := range w.servers {
			w.ok(s.Close())
		}
		osFS.Close()
	})
	return w, &closedDisk{FS: osFS}, log
}

// until waits for something.
func (w *world) until(done func() bool) {
	w.t.Helper()
	for !done() {
		w.ok(clock.System().Sleep(w.t.Context(), time.Millisecond))
	}
}

// TestLendOverASocket lends a file as a client on the machine gets it, and vouches for it.
func TestLendOverASocket(t *testing.T) {
	w, fsys, log := realWorld(t)
	s := w.start(1, 0, fsys)
	data := text(160<<10, 'x')
	w.open(s)
	w.appended(w.append(s, 1, data), 0)
	lender := socketTo(t, s)
	ref := w.ref(s, 1)

	lent, err := lender.Lend(t.Context(), &ref)
	w.ok(err)
	if lent.Length != int64(len(data)) || len(lent.CRCs) != 3 || lent.Edition != edition(s) {
		t.Fatalf("%+v", lent)
	}
	w.ok(lent.Descriptor.Close())
	w.until(func() bool { return w.vouchedFor(s, ref, lent.Edition) != quarry.Confirm }) // the first heartbeat is answered
	reply, err := lender.Vouch(t.Context(), &rpc.VouchRequest{Chunks: []rpc.LentChunk{{ChunkRef: ref, Edition: lent.Edition}, {ChunkRef: ref, Edition: lent.Edition + 1}}})
	w.ok(err)
	if reply.Refused[0] != 0 || reply.Refused[1] != quarry.StaleVersion {
		t.Fatalf("the words are %v", reply.Refused)
	}
	// What the system does not allow is told to whoever runs the server.
	fsys.shut.Store(true)
	_, err = lender.Lend(t.Context(), &ref)
	w.is(err, quarry.Unavailable)
	fsys.shut.Store(false)
	told := ""
	for len(log) > 0 {
		told += <-log
	}
	if !strings.Contains(told, "a file cannot be lent") {
		t.Errorf("nothing tells why files are not lent: %s", told)
	}
}

// TestLendFindsRot: who is to lend broken bytes, in a block that is looked at because not all of it is
// committed, tells the master.
func TestLendFindsRot(t *testing.T) {
	w, fsys, _ := realWorld(t)
	s, other := w.start(1, 0, fsys), w.start(2, 0, disk.NewMem())
	w.open(s, other)
	w.appended(w.append(s, 1, text(1000, 'x')), 0)
	w.mu.Lock()
	w.refuse = func(string, *quarry.PrepareRequest) error { return quarry.Unavailable }
	w.mu.Unlock()
	w.append(s, 2, text(500, 'y'))
	w.until(func() bool {
		state, _ := s.cfg.Disks[0].State(chunkA)
		return state.Length == 1500
	})
	f, err := fsys.Open("chunks/10/" + chunkA.String())
	w.ok(err)
	_, err = f.WriteAt([]byte("z"), 10)
	w.ok(err)
	w.ok(f.Close())
	ref := w.ref(s, 1)
	_, err = socketTo(t, s).Lend(t.Context(), &ref)
	w.is(err, quarry.Corrupt)
	w.until(func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return slices.ContainsFunc(w.reports, func(r *quarry.ReportRequest) bool { return r.Corrupt })
	})
}

// socketTo serves what a server lends, and returns how a client on the machine sees it.
func socketTo(t *testing.T, s *Server) rpc.Lender {
	t.Helper()
	network := rpc.Beside(rpc.TCP)
	l, err := network.Listen("")
	if err != nil {
		t.Fatal(err)
	}
	identity := func() rpc.Identity { return rpc.Identity{Role: rpc.RoleClient} }
	server := rpc.NewServer(rpc.ServerConfig{Clock: clock.System(), Identity: identity})
	rpc.ServeLender(server, s)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	client := rpc.NewClient(rpc.ClientConfig{Network: network, Clock: clock.System(), Identity: identity})
	t.Cleanup(func() {
		client.Close()
		server.Close()
		<-served
	})
	return client.Lender(l.Address())
}
