package rpc

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// FuzzError decodes the body of an error frame. What comes out can be sent on.
func FuzzError(f *testing.F) {
	for _, err := range []error{
		quarry.NotFound,
		quarry.Errorf("stat", quarry.NotFound, "/a", "no such name"),
		quarry.Wrap("make", "/a/b", &quarry.Error{Op: "route", Kind: quarry.NotLeader, Err: &quarry.NotLeaderError{Leader: 3, Address: "h:1"}}),
	} {
		f.Add(wire.Marshal(nil, encodeError(err), errorFields))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		err := decodeError(body)
		if err == nil {
			t.Fatal("an error frame without an error")
		}
		again := decodeError(wire.Marshal(nil, encodeError(err), errorFields))
		if quarry.KindOf(again) != quarry.KindOf(err) {
			t.Fatalf("%v became %v", err, again)
		}
	})
}

// frames makes sound frames of whatever the fuzzer likes, so that it gets behind the
// checksums: each takes seven bytes of it and what these say of a body and a payload.
func frames(b []byte) (stream []byte) {
	for len(b) >= 7 {
		h := head{version: 1, kind: frameKind(b[0]), flags: uint16(b[1]), op: Op(b[2]), id: uint64(b[3] % 8), deadlineMS: uint32(b[4]) * 10}
		body, payload := min(int(b[5]), len(b)-7), int(b[6])*100
		content := b[7:][:body]
		b = b[7+body:]
		data := bytes.Repeat([]byte{h.frameByte()}, payload)
		h.payload, h.payloadCRC = uint32(payload), 0
		if h.flags&flagPayloadCRC != 0 {
			h.payloadCRC = crc(data)
		}
		stream = append(appendRaw(stream, h, content), data...)
	}
	return stream
}

func (h *head) frameByte() byte { return byte(h.op) }

// unframe is the inverse of frames for a frame of the golden kind, whose payload it leaves out.
func unframe(frame []byte) []byte {
	var h head
	if err := h.parse(frame); err != nil || h.body > 255 {
		return nil
	}
	return append([]byte{byte(h.kind), byte(h.flags), byte(h.op), byte(h.id), 0, byte(h.body), 0}, frame[headBytes:][:h.body]...)
}

// FuzzServer sends what it likes, in sound frames or not, to a server that has let it in. The
// server goes on serving others.
func FuzzServer(f *testing.F) {
	for _, m := range contractMethods() {
		request, _ := m.golden()
		f.Add(unframe(request), true)
		f.Add(request, false)
	}
	f.Add([]byte{byte(kindCancel), 0, 0, 1, 0, 0, 0, byte(kindKeepAlive), 0, 0, 0, 0, 0, 0}, true)
	f.Fuzz(func(t *testing.T, b []byte, framed bool) {
		e := newEnv(t)
		for _, m := range contractMethods() {
			m.echo(e.server, func(any) {})
		}
		e.server.HandleMessages(RawOp{Op: OpRaw, Name: "note", BodyMax: 100, PayloadMax: 1000}, func(context.Context, *Raw) {})
		e.server.HandleRaw(RawOp{Op: OpRaw + 1, Name: "raw", BodyMax: 100, PayloadMax: 1000},
			func(_ context.Context, req *Raw) (*Raw, error) { return &Raw{Body: bytes.Clone(req.Body)}, nil })
		e.serve()
		conn, r := dialRaw(t, e, LaneControl)
		if framed {
			b = frames(b)
		}
		go conn.Write(append(b, appendRaw(nil, head{version: 1, kind: kindGoAway}, nil)...)) // which ends it
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			for {
				var h head
				if r.head(&h) != nil || r.discard(int(h.body)+int(h.payload)) != nil {
					return
				}
			}
		}()
		select {
		case <-drained:
		case <-time.After(10 * time.Second):
			conn.Close() // half a frame: the server may wait for the rest
			<-drained
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := e.client.ChunkServer(e.address).End(ctx, filled[quarry.EndRequest]()); err != nil {
			t.Fatalf("the server does not serve others: %v", err)
		}
	})
}

// FuzzClient answers a client's call with what it likes, in sound frames or not: the call ends.
func FuzzClient(f *testing.F) {
	for _, m := range contractMethods() {
		_, reply := m.golden()
		f.Add(unframe(reply), true)
		f.Add(reply, false)
	}
	f.Fuzz(func(t *testing.T, b []byte, framed bool) {
		e := newEnv(t)
		l, err := e.network.Listen("liar:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if framed {
			b = frames(b)
		}
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				p := party{identity: serverIdentity()}
				if _, _, err := p.receive(conn, testReader(conn)); err == nil {
					conn.Write(b)
				}
				conn.Close()
			}
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, _ = e.client.ChunkServer(l.Address()).Read(ctx, &quarry.ReadRequest{Length: 100})
		_, _ = e.client.Master(l.Address()).Locate(ctx, filled[quarry.LocateRequest]())
		if ctx.Err() != nil {
			t.Fatal("a call did not end")
		}
	})
}
