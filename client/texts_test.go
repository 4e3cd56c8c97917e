package client_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/client/clienttest"
)

// An error names the operation and the path, says what happened, and what to do if that is
// not plain.
func TestErrorTexts(t *testing.T) {
	run(t, small, client.Options{Patience: 5 * time.Second}, func(e *env) {
		ctx := e.Context()
		e.must(e.files.Mkdir(ctx, "/d"))
		e.put("/d/f", []byte("x"))
		open := func(path string) error { _, err := e.files.Open(ctx, path); return err }
		check := func(err error, text string) {
			e.Helper()
			if err == nil || err.Error() != text {
				e.Errorf("got  %v\nwant %s", err, text)
			}
		}
		check(open("/d/nothing"), `open /d/nothing: lookup nothing: not found: there is no such name`)
		check(open("/d"), `open /d: lookup: is a directory: a file is needed`)
		check(open("/d/f/x"), `open /d/f/x: lookup x: not a directory: it is looked for in a file`)
		check(open("/d/../x"), `open /d/../x: name "..": invalid: "." and ".." cannot be names`)
		_, err := e.files.Create(ctx, "/d/f")
		check(err, `create /d/f: already exists: put replaces a file, append writes on at its end`)
		_, err = e.files.Create(ctx, "/nothing/f")
		check(err, `create /nothing/f: lookup /nothing: not found: make the directory first`)
		check(e.files.Mkdir(ctx, "/d"), `mkdir /d: make d: already exists: the name is taken`)
		check(e.files.Remove(ctx, "/d"), `remove /d: remove d: directory not empty: it has 1 entries`)
		check(e.files.Remove(ctx, "/"), `remove /: path: invalid: the root directory cannot be made, renamed or removed`)
		_, err = e.files.Append(ctx, "/d/f", nil)
		check(err, `append /d/f: too large: a record has 1 to 16777216 bytes, this one has 0`)
		e.c.LoseAnswers("make", 1000)
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		check(e.files.Mkdir(short, "/d/x"), `mkdir /d/x: masters: outcome unknown: make master:7400: context deadline exceeded, after: make master:7400: unavailable: connection reset; it may have been done or not: look before trying again`)
		e.c.Fail("roll", quarry.Errorf("roll", quarry.NoSpace, "", "all disks are full"))
		_, err = e.files.Append(ctx, "/d/f", []byte("x"))
		check(err, `append /d/f: roll: no space left: all disks are full; remove files or add disks, then try again`)
		e.c.Fail("roll", nil)
		e.put("/d/g", clienttest.Bytes(1, quarry.InlineBytesMax+1))
		f, err := e.files.Open(ctx, "/d/g")
		e.must(err)
		for _, s := range e.c.Servers() {
			s.SetFaults(clienttest.Faults{Corrupt: true})
		}
		_, err = f.ReadAt(make([]byte, 10), 0)
		check(err, `read /d/g: read f3a0000000000007: corrupt: the bytes at 0 do not match their checksum; no replica with right checksums was found: see the health report`)
		_, err = e.files.Append(ctx, "/d/f", []byte("one"))
		e.must(err)
		for _, s := range e.c.Servers() {
			s.Kill()
		}
		_, err = f.ReadAt(make([]byte, 10), 0)
		check(err, `read /d/g: wait: nothing has gone on for 5s: dial 10.0.0.1:7500: unavailable: connection refused; check that the masters and chunk servers run, then try again`)
		_, err = e.files.Put(ctx, "/d/h", bytes.NewReader(make([]byte, quarry.InlineBytesMax+1)), client.PutOptions{})
		check(err, `put /d/h: create: no space left: no chunk server can be used; remove files or add disks, then try again`)
		_, err = e.files.Append(ctx, "/d/f", []byte("two"))
		check(err, `append /d/f: record: outcome unknown: wait: unavailable: nothing has gone on for 5s; it may have been done or not: look before trying again`)
		e.c.SetDown(true)
		check(open("/d/g"), `open /d/g: lookup master:7400: no master took the request within 30s: lookup master:7400: unavailable: connection refused; check that the masters and chunk servers run, then try again`)
		e.must(f.Close())
		e.c.SetDown(false)
		e.must(e.files.Close())
		check(open("/d/g"), `open /d/g: client: unavailable: the client is closed`)
		check(e.files.Mkdir(ctx, "/d/g"), `mkdir /d/g: client: unavailable: the client is closed`)
	})
}
