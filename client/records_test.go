package client_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/client/clienttest"
)

func TestRecords(t *testing.T) {
	run(t, small, client.Options{}, func(e *env) {
		e.put("/f", []byte("inline"))
		want := []string{"inline"}
		for i := range 300 {
			record := strings.Repeat(string(rune('a'+i%26)), 1+i*7%50)
			_, err := e.files.Append(e.Context(), "/f", []byte(record))
			e.must(err)
			want = append(want, record)
			switch i {
			case 100:
				e.c.Seal("/f")
			case 200:
				primary(e, "/f").Kill()
			}
		}
		all := []byte(strings.Join(want, ""))
		e.expect("/f", all)
		for cut := 0; cut <= len(all); cut += 977 { // every record is in one of two parts
			var got []string
			for r, err := range e.files.Records(e.Context(), "/f", 0) {
				e.must(err)
				if r.Offset >= int64(cut) {
					break
				}
				got = append(got, string(r.Data))
			}
			for r, err := range e.files.Records(e.Context(), "/f", int64(cut)) {
				e.must(err)
				if !bytes.HasPrefix(all[r.Offset:], r.Data) {
					e.Fatalf("a record at %d is not what stands there", r.Offset)
				}
				got = append(got, string(r.Data))
			}
			if len(got) != len(want) || strings.Join(got, "") != string(all) {
				e.Fatalf("cut at %d: %d records, want %d", cut, len(got), len(want))
			}
		}
		for _, err := range e.files.Records(e.Context(), "/nothing", 0) {
			if err == nil {
				e.Error("a file that is not there has records")
			}
		}
	})
}

func TestRecordsOfAWriter(t *testing.T) {
	run(t, clienttest.Config{}, client.Options{}, func(e *env) {
		data := clienttest.Bytes(1, 700_000)
		e.put("/f", data)
		var got []byte
		for r, err := range e.files.Records(e.Context(), "/f", 0) {
			e.must(err)
			got = append(got, r.Data...)
		}
		if !bytes.Equal(got, data) {
			e.Errorf("%d bytes in all records, want %d", len(got), len(data))
		}
	})
}
