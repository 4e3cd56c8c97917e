package protocol

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/quarryfs/quarry"
)

var rewrite = flag.Bool("rewrite", false, "write the scripts anew with what happens")

// bench is what a script drives: one machine of each kind. A script is a row of events, one
// a line, as "verb key=value ...", each followed by the effects and replies it caused.
// Lines "without: rule" name rules without which something else happens.
type bench struct {
	member   *Member
	disk     Replica // what the member's changes made
	queue    []Persist
	inc      quarry.Incarnation
	call     Call
	sealer   *Sealer
	leases   Leases
	held     HeldLease
	appender *Appender
	out      bytes.Buffer
	line     words
}

// words are the keys and values of a line.
type words map[string]string

func (w words) num(key string) int64 {
	s, ok := w[key]
	if !ok {
		return 0
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		panic(fmt.Sprintf("%s=%s: not a number", key, s))
	}
	return n
}

func (w words) version() quarry.Version { return quarry.Version(w.num("v")) }

// list splits a value at commas.
func (w words) list(key string) []string {
	if w[key] == "" {
		return nil
	}
	return strings.Split(w[key], ",")
}

// play runs a script and returns it with what happens. A panic of a machine ends it.
func play(text string) (out string) {
	b := &bench{inc: 1}
	defer func() {
		if r := recover(); r != nil {
			out = fmt.Sprintf("%s    panic: %v\n", b.out.String(), r)
		}
	}()
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, " ") {
			continue
		}
		fmt.Fprintln(&b.out, line)
		if line == "" || line[0] == '#' || strings.HasPrefix(line, "without: ") {
			continue
		}
		verb, rest, _ := strings.Cut(line, " ")
		b.line = words{}
		for _, f := range strings.Fields(rest) {
			key, value, _ := strings.Cut(f, "=")
			b.line[key] = value
		}
		b.do(verb)
	}
	return b.out.String()
}

func (b *bench) do(verb string) {
	for _, try := range []func(string) bool{b.doMember, b.doRequest, b.doLook, b.doSealer, b.doLease, b.doAppender} {
		if try(verb) {
			return
		}
	}
	panic("no such verb: " + verb)
}

func (b *bench) say(format string, args ...any) { fmt.Fprintf(&b.out, "    "+format+"\n", args...) }

func (b *bench) ref() quarry.ChunkRef {
	inc := b.inc
	if b.line["to"] != "" {
		inc = quarry.Incarnation(b.line.num("to"))
	}
	return quarry.ChunkRef{Handle: 7, Version: b.line.version(), Target: inc}
}

func parseRecords(list []string, offset int64) (out []Record) {
	for _, s := range list { // session.sequence+length
		var r Record
		if _, err := fmt.Sscanf(s, "%d.%d+%d", &r.Session, &r.Sequence, &r.Length); err != nil {
			panic(err)
		}
		r.Offset = offset
		offset += r.Length
		out = append(out, r)
	}
	return out
}

func headers(records []Record) (out []quarry.RecordHeader) {
	for _, r := range records {
		out = append(out, quarry.RecordHeader{Session: r.Session, Sequence: r.Sequence, Length: r.Length})
	}
	return out
}

func table(list []string) *Records {
	t := &Records{}
	for _, r := range parseRecords(list, 0) {
		if err := t.Append(r); err != nil {
			panic(err)
		}
	}
	return t
}

func members(list []string) (out []quarry.Member) {
	for _, s := range list { // server.incarnation
		var m quarry.Member
		if _, err := fmt.Sscanf(s, "%d.%d", &m.Server, &m.Incarnation); err != nil {
			panic(err)
		}
		out = append(out, m)
	}
	return out
}

// doMember begins and ends lives of a member, and drives its disk.
func (b *bench) doMember(verb string) bool {
	w := b.line
	switch verb {
	case "member": // without a replica
		b.member, b.disk = NewMember(7, 1, b.inc), Replica{Handle: 7}
	case "replica": // found on the disk at a start
		b.disk = Replica{
			Handle: 7, Exists: true, Promised: quarry.Version(w.num("promised")), LogVersion: quarry.Version(w.num("log")),
			SealVersion: quarry.Version(w.num("sealed")), SealLength: w.num("at"), Serving: true, Records: *table(w.list("records")),
		}
		b.member = RecoverMember(b.disk, 1, b.inc)
	case "join": // only a test can: the replica found is of this incarnation
		b.member.joined = b.disk.LogVersion
	case "restart": // keep=n changes on their way have reached the journal
		for _, p := range b.queue[:w.num("keep")] {
			b.apply(p)
		}
		b.queue, b.inc = nil, b.inc+1
		b.member = RecoverMember(b.disk, 1, b.inc)
	case "durable": // the first n changes on their way, or all
		n := int(w.num("n"))
		if n == 0 {
			n = len(b.queue)
		}
		if n == 0 {
			return true
		}
		last := b.queue[n-1].Ticket
		for _, p := range b.queue[:n] {
			b.apply(p)
		}
		b.queue = b.queue[n:]
		b.print(b.member.Durable(last))
	case "fail":
		b.print(b.member.Fail())
	case "refuse": // the disk makes no change on its way
		b.queue = nil
		b.print(b.member.Suspend(quarry.Errorf("write", quarry.NoSpace, "", "the disk is full")))
	case "anew": // from what the disk says, in the same incarnation
		b.member = RecoverMember(b.disk, 1, b.inc)
	case "corrupt":
		b.member.Corrupt()
	case "info":
		b.say("%+v", b.member.Info())
	default:
		return false
	}
	return true
}

func (b *bench) apply(p Persist) {
	if err := b.disk.Apply(&p.Change); err != nil {
		panic(err)
	}
}

// doRequest sends a request to the member.
func (b *bench) doRequest(verb string) bool {
	w, m, c := b.line, b.member, b.call+1
	var out []Effect
	switch verb {
	case "create":
		out = m.Create(c, &quarry.CreateRequest{ChunkRef: b.ref()})
	case "activate":
		out = m.Activate(c, &quarry.ActivateRequest{ChunkRef: b.ref(), Members: members(w.list("members")), Base: w.num("base")})
	case "append":
		ref := b.ref()
		out = m.Append(c, &ref, quarry.Sequence(w.num("oldest")), headers(parseRecords(w.list("record"), 0))[0])
	case "prepare":
		out = m.Prepare(c, &quarry.PrepareRequest{
			ChunkRef: b.ref(), Batch: uint64(w.num("batch")), Offset: w.num("at"), Commit: w.num("commit"),
			Records: headers(parseRecords(w.list("records"), 0)),
		})
	case "ack":
		out = m.Acknowledged(w.version(), []quarry.MemberLength{{Server: quarry.ServerID(w.num("from")), Length: w.num("len")}})
	case "resend":
		out = m.Resend()
	case "commit":
		effects, err := m.Commit(&quarry.CommitRequest{ChunkRef: b.ref(), Commit: w.num("at")})
		if out = effects; err != nil {
			b.say("%v", err)
		}
	case "fence":
		out = m.Fence(c, &quarry.FenceRequest{ChunkRef: b.ref()})
	case "promise":
		out = m.Promise(c, w.version())
	case "seal":
		out = m.Seal(c, &quarry.SealRequest{
			ChunkRef: b.ref(), Length: w.num("at"),
			WritableVersion: quarry.Version(w.num("writable")), PrevWritableVersion: quarry.Version(w.num("prev")),
		})
	case "copy":
		req := &quarry.CopyRequest{ChunkRef: b.ref(), Length: w.num("at"), WritableVersion: quarry.Version(w.num("writable"))}
		out = m.Copied(c, req, table(w.list("records")), nil)
	case "add":
		out = m.Add(c, &quarry.AddRequest{ChunkRef: b.ref()})
	case "drop":
		out = m.Drop(c, &quarry.DropRequest{ChunkRef: b.ref()})
	case "reopen":
		out = m.Reopen(c, &quarry.ReopenRequest{ChunkRef: b.ref(), Base: w.num("base"), PrevWritableVersion: quarry.Version(w.num("prev"))})
	case "forget":
		out = m.Forget(c, quarry.SessionID(w.num("session")))
	default:
		return false
	}
	b.call = c
	b.print(out)
	return true
}

// doLook asks the member something that is answered at once.
func (b *bench) doLook(verb string) bool {
	w, m := b.line, b.member
	var reply any
	var err error
	switch verb {
	case "fate":
		req := &quarry.FateRequest{ChunkRef: b.ref(), Length: w.num("at"), Session: quarry.SessionID(w.num("session"))}
		for _, s := range w.list("records") {
			n, _ := strconv.Atoi(s)
			req.Sequences = append(req.Sequences, quarry.Sequence(n))
		}
		reply, err = m.Fate(req)
	case "read":
		_, validated := w["validated"]
		reply, err = m.Read(&quarry.ReadRequest{ChunkRef: b.ref(), Offset: w.num("at"), Length: w.num("len"), Validated: validated})
	case "end":
		reply, err = m.End(&quarry.EndRequest{ChunkRef: b.ref()})
	case "wait":
		var over bool
		var r quarry.WaitReply
		r, over, err = m.Wait(&quarry.WaitRequest{ChunkRef: b.ref(), Offset: w.num("at")})
		reply = fmt.Sprintf("%+v over=%v", r, over)
	case "records":
		reply, err = m.RecordRuns(&quarry.RecordsRequest{ChunkRef: b.ref(), Offset: w.num("at")})
	case "fencing":
		reply, err = m.Fencing(&quarry.FenceRequest{ChunkRef: b.ref()})
	case "behind":
		reply = m.Primary().Behind()
	default:
		return false
	}
	if err != nil {
		b.say("%v", err)
		return true
	}
	b.say("%s", strings.TrimPrefix(fmt.Sprintf("%+v", reply), "&"))
	return true
}

var statuses = map[string]quarry.ReplicaStatus{
	"": quarry.ReplicaGood, "missing": quarry.ReplicaMissing, "lost": quarry.ReplicaLost, "corrupt": quarry.ReplicaCorrupt,
	"waiting": quarry.ReplicaWaiting,
}

func ms(n int64) Instant { return Instant(n) * millisecond }

func (b *bench) doSealer(verb string) bool {
	w := b.line
	switch verb {
	case "sealing":
		b.sealer = NewSealer(Sealing{
			Handle: 7, Version: w.version(), WritableVersion: quarry.Version(w.num("writable")),
			PrevWritableVersion: quarry.Version(w.num("prev")), Base: w.num("base"), Members: members(w.list("members")),
		})
	case "fenced":
		r := &quarry.FenceReply{
			Version: w.version(), Incarnation: quarry.Incarnation(w.num("inc")), Status: statuses[w["status"]],
			LogVersion: quarry.Version(w.num("log")), DurableLength: w.num("len"), Commit: w.num("commit"),
		}
		current := r.Incarnation
		if w["current"] != "" {
			current = quarry.Incarnation(w.num("current"))
		}
		b.sealer.Replied(quarry.ServerID(w.num("from")), r, current, ms(w.num("now")))
	case "gone":
		b.sealer.Gone(quarry.ServerID(w.num("server")))
	case "decide":
		d := b.sealer.Decide(&b.leases, ms(w.num("now")))
		b.say("%s length=%d again=%dms suspect=%v short=%v unanswered=%v", [...]string{"waiting", "decided", "lost"}[d.Verdict],
			d.Length, d.Again/millisecond, d.Suspect, d.Short, b.sealer.Unanswered())
	default:
		return false
	}
	return true
}

func (b *bench) doLease(verb string) bool {
	w := b.line
	server, inc, now := quarry.ServerID(w.num("server")), quarry.Incarnation(w.num("inc")), ms(w.num("now"))
	switch verb {
	case "elected":
		b.leases = NewLeases(now)
	case "heartbeat":
		b.say("%v", b.leases.Heartbeat(server, inc, now))
	case "registered":
		b.leases.Registered(server, inc)
	case "ended":
		b.leases.Ended(server, inc)
	case "prune":
		b.leases.Prune(now)
		b.say("%d grants, %d arrivals", len(b.leases.grants), len(b.leases.arrived))
	case "took":
		b.leases.Took([]quarry.SlotRange{{First: quarry.Slot(w.num("first")), Last: quarry.Slot(w.num("last"))}}, now)
	case "until":
		slot := quarry.Slot(w.num("slot"))
		b.say("end %dms read %dms", b.leases.Until(slot, server, inc, RightEnd)/millisecond, b.leases.Until(slot, server, inc, RightRead)/millisecond)
	case "asked":
		b.held.Ask(uint64(w.num("nonce")), now)
	case "granted":
		b.held.Granted(uint64(w.num("nonce")), ms(w.num("end")), ms(w.num("read")))
	case "holds":
		b.say("end %v read %v", b.held.Holds(RightEnd, now), b.held.Holds(RightRead, now))
	default:
		return false
	}
	return true
}

var chunkStates = map[string]quarry.ChunkState{
	"open": quarry.ChunkOpen, "sealing": quarry.ChunkSealing, "sealed": quarry.ChunkSealed, "lost": quarry.ChunkLost,
}

func (b *bench) doAppender(verb string) bool {
	w := b.line
	h, v, seq := quarry.Handle(w.num("chunk")), w.version(), quarry.Sequence(w.num("record"))
	chunk := &quarry.Chunk{Handle: h, Version: v, Length: w.num("at"), State: chunkStates[w["state"]]}
	switch verb {
	case "session":
		b.appender = NewAppender(5)
	case "record":
		seq, out, err := b.appender.Add(w.num("len"))
		if err != nil {
			b.say("%v", err)
			return true
		}
		b.say("record %d", seq)
		b.print(out)
	case "tail":
		b.print(b.appender.Tail(chunk))
	case "appended":
		b.print(b.appender.Answered(seq, h, v, &quarry.AppendReply{Offset: w.num("at")}, nil))
	case "refused":
		b.print(b.appender.Answered(seq, h, v, nil, quarry.Kind(w.num("kind"))))
	case "doubt":
		b.print(b.appender.Doubt(h, v))
	case "again":
		b.print(b.appender.Resend())
	case "ask":
		b.print(b.appender.Ask())
	case "located":
		b.print(b.appender.Located(chunk))
	case "fates":
		reply := &quarry.FateReply{Version: v, Length: w.num("at")}
		for _, s := range w.list("fates") { // sequence@offset, sequence-absent, sequence-unknown
			f := quarry.Fate{State: quarry.FateCommitted}
			var word string
			if n, _ := fmt.Sscanf(s, "%d@%d", &f.Sequence, &f.Offset); n < 2 {
				fmt.Sscanf(s, "%d-%s", &f.Sequence, &word)
				f.State = map[string]quarry.FateState{"absent": quarry.FateAbsent, "unknown": quarry.FateUnknown}[word]
			}
			reply.Fates = append(reply.Fates, f)
		}
		b.print(b.appender.Fates(h, reply))
	case "window":
		n, bytes := b.appender.Unsettled()
		b.say("%d records, %d bytes, oldest %d", n, bytes, b.appender.Oldest())
	default:
		return false
	}
	return true
}

// print says what effects are asked for.
func (b *bench) print(out []Effect) {
	for _, e := range out {
		switch e := e.(type) {
		case Persist:
			b.queue = append(b.queue, e)
			b.say("persist %d: %s", e.Ticket, changeText(&e.Change))
		case Answer:
			switch {
			case e.Err != nil:
				b.say("answer %d: %v", e.Call, e.Err)
			case e.Reply == nil:
				b.say("answer %d: done", e.Call)
			default:
				b.say("answer %d: %s", e.Call, strings.TrimPrefix(fmt.Sprintf("%+v", e.Reply), "&"))
			}
		case Ship:
			r := &e.Request
			b.say("ship batch %d at %d commit %d:%s", r.Batch, r.Offset, r.Commit, headerText(r.Records))
		default:
			b.say("%s", strings.TrimPrefix(fmt.Sprintf("%T%+v", e, e), "protocol."))
		}
	}
}

func headerText(list []quarry.RecordHeader) (s string) {
	for _, h := range list {
		s += fmt.Sprintf(" %d.%d+%d", h.Session, h.Sequence, h.Length)
	}
	return s
}

func changeText(c *Change) string {
	s := [...]string{1: "create", 2: "batch", 3: "promise", 4: "adopt", 5: "seal", 6: "copy", 7: "add", 8: "drop", 9: "forget", 10: "reopen"}[c.Kind]
	switch c.Kind {
	case ChangeForget:
		return fmt.Sprintf("%s session %d", s, c.Session)
	case ChangeReopen:
		return fmt.Sprintf("%s v%d at %d", s, c.Version, c.Length)
	case ChangeSeal, ChangeCopy:
		return fmt.Sprintf("%s v%d of v%d at %d", s, c.Version, c.WritableVersion, c.Length)
	}
	s = fmt.Sprintf("%s v%d", s, c.Version)
	for _, r := range c.Records {
		s += fmt.Sprintf(" %d.%d+%d", r.Session, r.Sequence, r.Length)
	}
	return s
}

func scripts(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatal("no scripts", err)
	}
	return paths
}

func TestScripts(t *testing.T) {
	for _, path := range scripts(t) {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := play(string(want))
			switch {
			case strings.Contains(got, "panic: "):
				t.Fatal(got)
			case *rewrite:
				if err := os.WriteFile(path, []byte(got), 0o666); err != nil {
					t.Fatal(err)
				}
			case got != string(want):
				t.Errorf("something else happened (accept it with -rewrite):\n%s", got)
			}
		})
	}
}
