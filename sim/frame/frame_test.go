package frame

import "testing"

func TestBrokenFramesAreLeftAlone(t *testing.T) {
	for _, piece := range []string{"", "QRP", "XRPC" + string(make([]byte, 40)), "QRPC" + string(make([]byte, 39))} {
		if list, whole := Cut([]byte(piece)); whole != (piece == "") || len(list) > 0 {
			t.Errorf("%q: %d frames, whole %v", piece, len(list), whole)
		}
	}
}
