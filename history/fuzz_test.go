package history

import (
	"bytes"
	"testing"
)

// FuzzBytes looks for records and for a file in hostile bytes. The records found are just the
// bytes between the first and the cut.
func FuzzBytes(f *testing.F) {
	const log = "/l"
	a, b := RecordBytes(log, Record{1, 2, 30}), RecordBytes(log, Record{3, 4, HeaderBytes})
	f.Add(append(bytes.Clone(a), b...), true)
	f.Add(append(append(bytes.Clone(a[7:]), b...), a[:12]...), false)
	f.Add(FileBytes(7, 100), true)
	f.Fuzz(func(t *testing.T, b []byte, aligned bool) {
		seen, cut, bad := parseLog(log, b, 1000, aligned)
		at := int(seen.First - 1000)
		if at < 0 || at > len(b) || cut < 0 || cut > len(b) || aligned && at != 0 {
			t.Fatalf("records from %d, cut at %d, of %d bytes", at, cut, len(b))
		}
		for _, r := range seen.Records {
			end := at + int(r.Length)
			if end > cut {
				t.Fatalf("%v ends at %d, behind the cut at %d", r, end, cut)
			}
			if got := RecordBytes(log, r); bad == "" && !bytes.Equal(got[8:HeaderBytes], b[at+8:at+HeaderBytes]) {
				t.Fatalf("%v is not what stands at %d", r, at)
			}
			at = end
		}
		if at != cut && at != len(b) {
			t.Fatalf("the records end at %d, the cut is at %d: %s", at, cut, bad)
		}
		_, _ = parseFile(b)
	})
}
