package model

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/quarryfs/quarry"
)

// packet is a message on its way. The net is a pool: packets leave it in any order, twice,
// or never. A body is a pointer to a struct that nobody changes any more.
type packet struct {
	to   node
	body any
	key  uint64
}

type nodeKind uint8

const (
	atMaster nodeKind = iota
	atServer
	atClient
	atReader
)

// node is where a packet goes: for a server, to one incarnation of it.
type node struct {
	kind nodeKind
	id   uint8
	inc  quarry.Incarnation
}

// Bodies that are not a request of the contract.
type (
	appendMsg struct {
		ref    quarry.ChunkRef
		oldest quarry.Sequence
		header quarry.RecordHeader
	}
	appendedMsg struct { // to a client
		seq     quarry.Sequence
		handle  quarry.Handle
		version quarry.Version
		offset  int64
		kind    quarry.Kind
	}
	prepareMsg struct { // with whom to answer
		from uint8
		inc  quarry.Incarnation
		req  quarry.PrepareRequest
	}
	ackMsg struct { // a secondary's answer to PREP
		handle  quarry.Handle
		version quarry.Version
		from    quarry.ServerID
		length  int64
	}
	openedMsg struct { // answer to CREATE
		handle quarry.Handle
		from   quarry.ServerID
		inc    quarry.Incarnation
	}
	reopenedMsg struct { // answer to REOPEN
		handle  quarry.Handle
		version quarry.Version
		from    quarry.ServerID
		inc     quarry.Incarnation
	}
	fencedMsg struct {
		handle quarry.Handle
		from   quarry.ServerID
		reply  quarry.FenceReply
	}
	waitingMsg struct{ fencedMsg } // of a primary whose disk has not answered
	holdsMsg   struct {            // answer to SEAL or COPY
		handle  quarry.Handle
		version quarry.Version
		from    quarry.ServerID
		inc     quarry.Incarnation
		holds   bool
	}
	copyMsg struct { // a COPY whose bytes have been fetched
		req       quarry.CopyRequest
		runs      []quarry.RecordRun
		forgotten []quarry.SessionID
	}
	heartbeatMsg struct {
		from    quarry.ServerID
		inc     quarry.Incarnation
		nonce   uint64
		settled []quarry.Item
	}
	grantMsg struct {
		nonce uint64
		items []quarry.Item
	}
	fatesMsg struct { // to a client
		handle quarry.Handle
		reply  quarry.FateReply
	}
	fateMsg struct {
		client uint8
		req    quarry.FateRequest
	}
	endMsg struct {
		req quarry.EndRequest
		gen uint8
	}
	endedMsg struct { // to the reader
		handle  quarry.Handle
		version quarry.Version
		gen     uint8
		content []recID
		confirm bool
	}
)

func refl(v any) reflect.Value { return reflect.ValueOf(v).Elem() }

// send puts a packet into the net. Equal packets are one: the net may duplicate.
func (w *world) send(to node, body any) {
	p := packet{to: to, body: body}
	p.key = hash(p)
	if slices.ContainsFunc(w.net, func(q packet) bool { return q.key == p.key }) {
		return
	}
	w.net = append(w.net, p)
	w.note("%s", &p)
}

// note tells a script what happened.
func (w *world) note(format string, args ...any) {
	if w.log != nil {
		w.log(fmt.Sprintf(format, args...))
	}
}

// take removes a packet from the net.
func (w *world) take(i int) packet {
	p := w.net[i]
	w.net = slices.Delete(w.net, i, i+1)
	return p
}

// name is the body's kind: "Create", "Ack".
func (p *packet) name() string {
	t := reflect.TypeOf(p.body).Elem().Name()
	t = strings.TrimSuffix(strings.TrimSuffix(t, "Msg"), "Request")
	return strings.ToUpper(t[:1]) + t[1:]
}

func (n node) String() string {
	switch n.kind {
	case atServer:
		return fmt.Sprintf("s%d.%d", n.id+1, n.inc)
	case atClient:
		return fmt.Sprintf("c%d", n.id+1)
	case atReader:
		return "reader"
	}
	return "master"
}

func (p *packet) String() string {
	d := ""
	switch b := p.body.(type) {
	case *quarry.CreateRequest:
		d = ref(&b.ChunkRef)
	case *quarry.ActivateRequest:
		d = ref(&b.ChunkRef)
	case *prepareMsg:
		d = fmt.Sprintf("%s batch %d at %d, commit %d:", ref(&b.req.ChunkRef), b.req.Batch, b.req.Offset, b.req.Commit)
		for _, r := range b.req.Records {
			d += fmt.Sprintf(" %d.%d", r.Session, r.Sequence)
		}
	case *quarry.CommitRequest:
		d = fmt.Sprintf("%s %d", ref(&b.ChunkRef), b.Commit)
	case *quarry.FenceRequest:
		d = ref(&b.ChunkRef)
	case *quarry.ReopenRequest:
		d = fmt.Sprintf("%s at %d", ref(&b.ChunkRef), b.Base)
	case *quarry.SealRequest:
		d = fmt.Sprintf("%s at %d", ref(&b.ChunkRef), b.Length)
	case *quarry.AddRequest:
		d = ref(&b.ChunkRef)
	case *quarry.DropRequest:
		d = ref(&b.ChunkRef)
	case *appendMsg:
		d = fmt.Sprintf("%s record %d.%d, oldest %d", ref(&b.ref), b.header.Session, b.header.Sequence, b.oldest)
	case *appendedMsg:
		d = fmt.Sprintf("%d: record %d", b.handle, b.seq)
		if b.kind != 0 {
			d += ": " + b.kind.Error()
		} else {
			d += fmt.Sprintf(" at %d", b.offset)
		}
	case *waitingMsg:
		d = fmt.Sprintf("%d from s%d.%d", b.handle, b.from, b.reply.Incarnation)
	case *fencedMsg:
		d = fmt.Sprintf("%d from s%d.%d: status %d, log %d, durable %d, commit %d", b.handle, b.from, b.reply.Incarnation,
			b.reply.Status, b.reply.LogVersion, b.reply.DurableLength, b.reply.Commit)
	case *copyMsg:
		d = fmt.Sprintf("%s at %d", ref(&b.req.ChunkRef), b.req.Length)
	case *fateMsg:
		d = fmt.Sprintf("%s at %d: records %v of %d", ref(&b.req.ChunkRef), b.req.Length, b.req.Sequences, b.req.Session)
	case *fatesMsg:
		d = fmt.Sprintf("%d: seal %d at %d:", b.handle, b.reply.Version, b.reply.Length)
		for _, f := range b.reply.Fates {
			d += fmt.Sprintf(" %d %s", f.Sequence, [...]string{1: "committed", 2: "absent", 3: "unknown"}[f.State])
		}
	case *endMsg:
		d = fmt.Sprintf("%s read %d", ref(&b.req.ChunkRef), b.gen)
	default:
		d = strings.TrimPrefix(fmt.Sprintf("%+v", b), "&")
	}
	return fmt.Sprintf("%s -> %v %s", p.name(), p.to, d)
}

func ref(r *quarry.ChunkRef) string { return fmt.Sprintf("%d v%d", r.Handle, r.Version) }
