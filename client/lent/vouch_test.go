//go:build linux

package lent

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/rpc"
)

// A file that is not the replica's any more is lent anew within the read, though its bytes match the
// checksums that came with it; the reads that follow need nothing more.
func TestLocalExchange(t *testing.T) {
	s, l := lending(t)
	s.cached(l)
	var row Row
	if got := s.get(l, 1, 0, 1<<20, &row); got != 1<<20 || row.word == nil {
		t.Fatal("nothing was lent")
	}
	copied, data := filepath.Join(t.TempDir(), "copy"), make([]byte, len(s.data))
	rand.NewChaCha8([32]byte{2}).Read(data)
	if err := os.WriteFile(copied, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s.set(func() { s.name, s.data, s.edition = copied, data, firstEdition+1 })
	row.asked -= clock.Instant(vouchedTime)
	lends, vouches := s.counts()
	for range 3 {
		if got := s.get(l, 1, 1<<20, 1<<20, &row); got != 1<<20 {
			t.Errorf("%d bytes came", got)
		}
		s.gets(l, 0, 1<<20, 1<<20)
	}
	if a, b := s.counts(); a != lends+1 || b != vouches+5 { // refused, the row's, and three
		t.Errorf("the server was asked %d times for the file and %d times for its word", a-lends, b-vouches)
	}
	// Words on both files at once are told apart.
	asked, answer := make(chan struct{}), make(chan struct{})
	s.set(func() { s.asked, s.answer = asked, answer })
	old, now := lentChunk(1), lentChunk(1)
	now.Edition++
	l.vouch(lenderAt(t).Address, old)
	<-asked
	word := l.vouch(lenderAt(t).Address, old)
	l.vouch(lenderAt(t).Address, now)
	answer <- struct{}{}
	<-asked
	answer <- struct{}{}
	if refused, err := l.hear(t.Context(), word, &old); refused != quarry.StaleVersion || err != nil {
		t.Errorf("the word on the file before is %v, %v", refused, err)
	}
	if refused, err := l.hear(t.Context(), word, &now); refused != 0 || err != nil {
		t.Errorf("the word on the file that was lent anew is %v, %v", refused, err)
	}
	s.set(func() { s.asked = nil })
}

// A word counts for reads that began before it was asked for, and for no others: who comes
// while a request is under way waits for the next one, which all share who came meanwhile.
func TestVouchesAreShared(t *testing.T) {
	s, l := lending(t)
	s.cached(l)
	asked, answer := make(chan struct{}), make(chan struct{})
	ref := lentChunk(1)
	address := lenderAt(t).Address
	s.set(func() { s.asked, s.answer = asked, answer })
	first := l.vouch(address, ref)
	<-asked
	second := l.vouch(address, ref)
	if second == first {
		t.Fatal("a read is given a word that was asked for before it began")
	}
	for h := range quarry.Handle(rpc.VouchMax) {
		if got := l.vouch(address, lentChunk(h+1)); got != second {
			t.Fatalf("chunk %d is in a request of its own", h+1)
		}
	}
	if l.vouch(address, lentChunk(1000)) != nil {
		t.Error("a request has more chunks than it may")
	}
	l.mu.Lock()
	l.vouches[address].sent -= clock.Instant(l.lenderMax) // the first is late, the second is not
	l.mu.Unlock()
	answer <- struct{}{}
	<-asked
	if l.vouch(address, ref) == nil {
		t.Error("a server that has answered late passes for one that is late for ever")
	}
	select {
	case <-first.done:
	default:
		t.Error("the second request was sent before the first was answered")
	}
	s.set(func() { s.asked = nil })
	answer <- struct{}{}
	<-second.done
	last := lentChunk(rpc.VouchMax)
	if refused, err := l.hear(t.Context(), second, &last); refused != 0 || err != nil {
		t.Error(refused, err)
	}
	if len(second.refused) != rpc.VouchMax {
		t.Errorf("%d chunks were vouched for", len(second.refused))
	}
}

// A server that does not answer keeps nobody.
func TestVouchIsNotWaitedFor(t *testing.T) {
	s, l := lending(t)
	s.cached(l)
	asked := make(chan struct{}, 10)
	s.set(func() { s.asked, s.answer = asked, make(chan struct{}) })
	l.lenderMax = lenderMax
	s.gets(l, 0, 1<<20, 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m := lenderAt(t)
	if n, _ := l.Read(ctx, &m, quarry.ChunkRef{Handle: 1}, 0, 1<<20, func(n int64) []byte { return make([]byte, n) }, nil); n != 0 {
		t.Errorf("%d bytes without the server's word", n)
	}
}

// A server that has not given its word in time is left alone, with the files that it has lent before.
func TestLateServersAreAvoided(t *testing.T) {
	s, l := lending(t)
	l.replyMax = replyMax
	s.cached(l)
	asked, m, chunk := make(chan struct{}), lenderAt(t), lentChunk(1)
	s.set(func() { s.asked, s.answer = asked, make(chan struct{}) })
	first := l.vouch(m.Address, lentChunk(1))
	<-asked
	l.mu.Lock()
	l.vouches[m.Address].sent -= clock.Instant(l.lenderMax)
	l.mu.Unlock()
	if l.vouch(m.Address, lentChunk(1)) != nil {
		t.Error("a read waits for a server that is late")
	}
	l.lenderMax = lenderMax
	if _, err := l.hear(t.Context(), first, &chunk); quarry.KindOf(err) != quarry.Unavailable || strings.Contains(err.Error(), "nil") {
		t.Error(err)
	}
	l.lenderMax = time.Minute
	<-first.done // the server has not answered at all
	lends, vouches := s.counts()
	s.gets(l, 0, 1<<20, 0)
	if file := l.get(t.Context(), &m, &quarry.ChunkRef{Handle: 1}, 1); file != nil {
		t.Error("a file is read of which the server does not give its word")
	}
	if a, b := s.counts(); a != lends || b != vouches {
		t.Errorf("the server was asked %d and %d times more", a-lends, b-vouches)
	}
	s.set(func() { s.asked = nil })
	l.mu.Lock()
	l.unlent[avoided{m.Address, 0}] = 1
	l.mu.Unlock()
	s.gets(l, 0, 1<<20, 1<<20) // after a while it may have come back
}

// A sequential reader uses a word for what it would have fetched ahead, and for a while.
func TestVouchOfARow(t *testing.T) {
	_, l := lending(t)
	word, now := &vouch{}, l.cfg.Clock.Now()
	var row Row
	one := lentChunk(1)
	if row.covers(&one, 0, 1, now) != nil || (*Row)(nil).covers(&one, 0, 1, now) != nil {
		t.Error("a word that nobody gave")
	}
	ahead := l.cfg.Ahead
	row.keep(word, &one, 100, 100+ahead, now)
	for _, test := range []struct {
		h        quarry.Handle
		edition  uint64
		from, to int64
		later    clock.Instant
		want     bool
	}{
		{1, firstEdition, 100, 101, 0, true}, {1, firstEdition, 100, 100 + ahead, 0, true}, {1, firstEdition, 99 + ahead, 100 + ahead, 0, true},
		{1, firstEdition, 100, 101 + ahead, 0, false}, {1, firstEdition, 99 + ahead, 101 + ahead, 0, false}, {1, firstEdition, 99, 200, 0, false}, // not all of it
		{2, firstEdition, 100, 101, 0, false}, {1, firstEdition + 1, 100, 101, 0, false}, {1, firstEdition, 100, 101, clock.Instant(vouchedTime), false},
	} {
		chunk := lentChunk(test.h)
		chunk.Edition = test.edition
		if got := row.covers(&chunk, test.from, test.to, row.asked+test.later) == word; got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
}
