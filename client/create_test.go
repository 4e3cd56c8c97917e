package client_test

import (
	"bytes"
	"context"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/client/clienttest"
)

// A stream that is longer than a chunk comes out as it went in whatever happens meanwhile.
func TestWriterSurvives(t *testing.T) {
	for name, meanwhile := range map[string]func(*env){
		"nothing happens":  func(*env) {},
		"a primary dies":   func(e *env) { primary(e, "/f").Kill() },
		"a primary hangs":  func(e *env) { primary(e, "/f").Hang() },
		"a secondary dies": func(e *env) { secondary(e, "/f").Kill() },
		"answers are lost": func(e *env) { primary(e, "/f").SetFaults(clienttest.Faults{LoseAcks: 7}) },
		"it is sealed":     func(e *env) { e.c.Seal("/f") },
	} {
		t.Run(name, func(t *testing.T) {
			run(t, small, client.Options{}, func(e *env) {
				w, err := e.files.Create(e.Context(), "/f")
				e.must(err)
				data := clienttest.Bytes(1, 5<<20+321)
				for i := range 4 {
					part := data[i*len(data)/4 : (i+1)*len(data)/4]
					if n, err := w.ReadFrom(bytes.NewReader(part)); n != int64(len(part)) || err != nil {
						e.Fatalf("wrote %d of %d: %v", n, len(part), err)
					}
					e.sleep(3 * time.Millisecond)
					if i == 1 {
						meanwhile(e)
					}
				}
				e.must(w.Close())
				e.expect("/f", data)
				for _, s := range e.c.Servers() {
					s.Resume()
				}
			})
		})
	}
}

func TestWriterFillsChunks(t *testing.T) {
	run(t, clienttest.Config{Copies: 1}, client.Options{}, func(e *env) {
		w, err := e.files.Create(e.Context(), "/f")
		e.must(err)
		data := clienttest.Bytes(2, quarry.ChunkBytesMax+5)
		n, err := io.Copy(w, bytes.NewReader(data))
		e.must(err)
		e.must(w.Close())
		if n != int64(len(data)) {
			e.Errorf("copied %d", n)
		}
		e.expect("/f", data)
		chunks := e.c.Chunks("/f")
		if len(chunks) != 2 || chunks[0].Length != quarry.ChunkBytesMax {
			e.Errorf("chunks %+v", chunks)
		}
		appends := 0
		for _, s := range e.c.Servers() {
			appends += s.Count("append")
		}
		if want := quarry.ChunkBytesMax/quarry.PacketBytes + 1; appends != want {
			e.Errorf("%d requests, want %d: nothing is sent to a full chunk", appends, want)
		}
	})
}

// The window bounds what a writer has under way, however slow the servers are.
func TestWriterWindow(t *testing.T) {
	run(t, clienttest.Config{Copies: 1}, client.Options{}, func(e *env) {
		w, err := e.files.Create(e.Context(), "/f")
		e.must(err)
		for range 64 { // until it is known that the servers take much
			e.must(write(w, quarry.PacketBytes))
		}
		e.must(w.Sync())
		p := primary(e, "/f")
		p.Hang()
		var accepted atomic.Int64
		go func() {
			for range 100 {
				if write(w, quarry.PacketBytes) != nil {
					return
				}
				accepted.Add(1)
			}
		}()
		e.sleep(500 * time.Millisecond)
		if n, most := accepted.Load(), int64(quarry.WindowBytes/quarry.PacketBytes+1); n > most || n < 8 { // 2 MiB, whatever was acknowledged how soon
			e.Errorf("%d packets were accepted while nothing was acknowledged, at most %d may be", n, most)
		}
		p.Resume()
		e.sleep(time.Second)
		e.must(w.Close())
		if n := p.InFlightMax(); n > quarry.WindowBytes {
			e.Errorf("%d bytes were under way", n)
		}
	})
}

func write(w io.Writer, n int) error {
	_, err := w.Write(make([]byte, n))
	return err
}

// What was written becomes visible without Sync.
func TestWriterFlushesByTime(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		w, err := e.files.Create(e.Context(), "/f")
		e.must(err)
		e.must(write(w, 100))
		if info, err := e.files.Stat(e.Context(), "/f"); err != nil || info.Size() != 0 {
			e.Errorf("%d bytes, %v", info.Size(), err)
		}
		e.sleep(300 * time.Millisecond)
		if info, err := e.files.Stat(e.Context(), "/f"); err != nil || info.Size() != 100 {
			e.Errorf("%d bytes, %v", info.Size(), err)
		}
		e.must(w.Close())
	})
}

func TestWriterContextEnds(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		ctx, cancel := context.WithCancel(e.Context())
		w, err := e.files.Create(ctx, "/f")
		e.must(err)
		e.must(write(w, 100))
		e.must(w.Sync())
		p := primary(e, "/f")
		p.Hang()
		e.must(write(w, quarry.PacketBytes))
		cancel()
		e.want(w.Sync(), context.Canceled)
		if err := w.Close(); err == nil {
			e.Error("a writer whose context ended closes without an error")
		}
		p.Resume()
	})
}

// After a record whose outcome is unknown a writer writes nothing more: the file would have
// a hole that nobody can see.
func TestWriterStopsAtTheFirstLoss(t *testing.T) {
	run(t, small, client.Options{Patience: 5 * time.Second}, func(e *env) {
		w, err := e.files.Create(e.Context(), "/f")
		e.must(err)
		e.must(write(w, 100))
		e.must(w.Sync())
		for _, s := range e.c.Servers() {
			s.Hang()
		}
		e.must(write(w, quarry.PacketBytes))
		e.want(w.Sync(), quarry.Unknown)
		for _, s := range e.c.Servers() {
			s.Resume()
		}
		e.sleep(5 * time.Second)
		if err := write(w, quarry.PacketBytes); err == nil {
			e.Error("it writes on")
		}
		if err := w.Close(); err == nil {
			e.Error("it closes without an error")
		}
	})
}
