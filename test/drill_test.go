package test

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/quarryfs/quarry/chaos"
)

// TestDrill measures planned handovers and an outage that it did not make itself: nothing is
// lost, what was measured is told, and nothing stays.
func TestDrill(t *testing.T) {
	t.Parallel()
	s := newSystem(t, options{servers: 1})
	before := s.leader()
	out, code := s.run("", "drill", "failover", "--runs", "3", "--json")
	var d chaos.Drilled
	if err := json.Unmarshal([]byte(out), &d); err != nil || code != 0 {
		t.Fatalf("code %d, %v: %s", code, err, out)
	}
	if len(d.Outages) != 3 || d.Acknowledged < 10 || d.MedianMS <= 0 || d.MedianMS > d.LongestMS || len(d.Lost) != 0 {
		t.Errorf("%+v", d)
	}
	for i, o := range d.Outages {
		if o.From == o.To || o.TransferMS <= 0 || o.PauseMS <= 0 || i > 0 && o.From != d.Outages[i-1].To {
			t.Errorf("handover %d: %+v", i, o)
		}
	}
	if after := s.leader(); after != before {
		t.Errorf("%s led before, %s leads now", before.name, after.name)
	}
	cmd := s.command("drill", "failover", "--watch")
	var told bytes.Buffer
	cmd.Stderr = os.Stderr
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	cmd.Stdout = write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	says := func(what string) {
		t.Helper()
		buf := make([]byte, 4096)
		if err := read.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		for !strings.Contains(told.String(), what) {
			n, err := read.Read(buf)
			told.Write(buf[:n])
			if err != nil {
				t.Fatalf("it does not say %q: %v\n%s", what, err, told.String())
			}
		}
	}
	says("make the leader fail")
	before = s.leader()            // leaderships are spread over the masters by themselves
	before.signal(syscall.SIGSTOP) // one that is killed has its successor before it is an outage
	says("no write was accepted for")
	before.signal(syscall.SIGCONT)
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	says("every acknowledged file was there")
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, told.String())
	}
	entries, _, err := s.fs.List(s.ctx, "/", "", 10)
	if err != nil || len(entries) > 0 {
		t.Errorf("what the drills wrote stays: %v, %v", entries, err)
	}
}
