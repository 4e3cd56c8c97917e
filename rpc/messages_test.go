package rpc

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// stays are the fields that do not travel as part of a body.
var stays = map[string]bool{
	"ReadRequest.Into": true, "ReadRequest.Sink": true, "ReadReply.File": true, "ReadReply.Release": true,
	"LendReply.FD": true, "LendReply.Release": true, "LendReply.Descriptor": true,
}

// filler sets fields to values that are all different.
type filler struct{ n int }

func (f *filler) fill(v reflect.Value, path string) {
	f.n++
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			name := v.Type().Name() + "." + v.Type().Field(i).Name
			if !stays[name] {
				f.fill(v.Field(i), path+"."+v.Type().Field(i).Name)
			}
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(v.Elem(), path)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		f.fill(v.Index(0), path+"[0]")
		f.fill(v.Index(1), path+"[1]")
	case reflect.Array:
		for i := range v.Len() {
			f.fill(v.Index(i), path)
		}
	case reflect.String:
		v.SetString(fmt.Sprintf("text %d", f.n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(f.n%250 + 1))
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(f.n%250 + 1))
	default:
		panic(path + ": a field of kind " + v.Kind().String() + " has no value here")
	}
}

func filled[M any]() *M {
	m := new(M)
	f := filler{n: len(reflect.TypeFor[M]().Name())}
	f.fill(reflect.ValueOf(m).Elem(), reflect.TypeFor[M]().Name())
	if r, ok := any(m).(*quarry.ReadRequest); ok {
		r.Length = 1000
	}
	return m
}

// anyMethod is a method with its types hidden.
type anyMethod interface {
	opName() (Op, string)
	interfaceMethod() string
	// checkWalks has request and reply written and read with every field set.
	checkWalks(t *testing.T)
	// golden returns the frames of a full request and a full reply.
	golden() (request, reply []byte)
	// fuzz reads a body as a request and as a reply.
	fuzz(t *testing.T, body []byte)
	// echo registers a handler that reports the request it got and answers with a full reply.
	echo(s *Server, got func(any))
	fullRequest() any
	fullReply() any
}

func contractMethods() []anyMethod {
	return []anyMethod{
		&sessionMethod, &lookupMethod, &statMethod, &listMethod, &makeMethod, &linkMethod, &renameMethod, &removeMethod,
		&locateMethod, &rollMethod, &allocateMethod, &finishMethod, &chunkMethod, &reportMethod, &registerMethod,
		&heartbeatMethod, &inventoryMethod, &topologyMethod, &statusMethod, &identifyMethod, &initMethod, &joinMethod,
		&replaceMethod, &transferMethod, &addShardMethod, &moveSlotsMethod, &removedMethod, &undeleteMethod, &keepTrashMethod, &setAttrMethod, &createMethod, &activateMethod, &appendMethod, &prepareMethod, &commitMethod, &fenceMethod,
		&sealMethod, &copyMethod, &addMethod, &dropMethod, &fateMethod, &readMethod, &endMethod, &waitMethod, &recordsMethod, &reopenMethod,
	}
}

// allMethods are the contract's, and those of a Lender.
func allMethods() []anyMethod { return append(contractMethods(), &lendMethod, &vouchMethod) }

func (m *method[Q, R]) opName() (Op, string) { return m.op, m.name }

func (m *method[Q, R]) interfaceMethod() string { return strings.ToUpper(m.name[:1]) + m.name[1:] }

func (m *method[Q, R]) fullRequest() any { return filled[Q]() }
func (m *method[Q, R]) fullReply() any   { return filled[R]() }

func (m *method[Q, R]) checkWalks(t *testing.T) {
	q, r := filled[Q](), filled[R]()
	var gotQ Q
	if err := wire.Unmarshal(wire.Marshal(nil, q, m.request), &gotQ, m.request); err != nil {
		t.Errorf("%s: request: %v", m.name, err)
	}
	if m.requestPayload != nil {
		*m.requestPayload(&gotQ) = *m.requestPayload(q)
	}
	if !reflect.DeepEqual(&gotQ, q) {
		t.Errorf("%s: request\n read  %+v\n wrote %+v", m.name, &gotQ, q)
	}
	var gotR R
	if err := wire.Unmarshal(wire.Marshal(nil, r, m.reply), &gotR, m.reply); err != nil {
		t.Errorf("%s: reply: %v", m.name, err)
	}
	if m.replyPayload != nil {
		m.setPayload(&gotR, m.replyPayload(r).bytes)
	}
	if !reflect.DeepEqual(&gotR, r) {
		t.Errorf("%s: reply\n read  %+v\n wrote %+v", m.name, &gotR, r)
	}
}

func (m *method[Q, R]) golden() (request, reply []byte) {
	q, r := filled[Q](), filled[R]()
	var data []byte
	if m.requestPayload != nil {
		data = *m.requestPayload(q)
	}
	request, err := encodeRequest(nil, head{version: 1, kind: kindRequest, id: 77, deadlineMS: 1500}, m, q, data)
	if err != nil {
		panic(err)
	}
	request = append(request, data...)
	var p payload
	if m.replyPayload != nil {
		p = m.replyPayload(r)
	}
	reply, err = appendFrame(nil, head{version: 1, kind: kindReply, op: m.op, id: 77, payload: uint32(p.size())}, r, m.reply)
	if err != nil {
		panic(err)
	}
	return request, append(reply, p.bytes...)
}

func (m *method[Q, R]) fuzz(t *testing.T, body []byte) {
	fuzzWalk(t, body, m.request)
	fuzzWalk(t, body, m.reply)
}

func fuzzWalk[M any](t *testing.T, body []byte, fields func(*wire.Walk, *M)) {
	var m, again M
	if err := wire.Unmarshal(body, &m, fields); err != nil {
		if k := quarry.KindOf(err); k != quarry.Invalid && k != quarry.TooLarge {
			t.Fatalf("%T: %v", m, err)
		}
		return
	}
	if err := wire.Unmarshal(wire.Marshal(nil, &m, fields), &again, fields); err != nil || !reflect.DeepEqual(m, again) {
		t.Fatalf("%+v became %+v, %v", m, again, err)
	}
}

func (m *method[Q, R]) echo(s *Server, got func(any)) {
	fn := func(_ context.Context, q *Q) (*R, error) {
		if m.requestPayload != nil {
			p := m.requestPayload(q)
			*p = append([]byte(nil), *p...)
		}
		got(q)
		return filled[R](), nil
	}
	if m.op == opAppend || m.op == opPrepare {
		handleOrdered(s, m, func(ctx context.Context, q *Q, done func(*R, error)) { go func() { done(fn(ctx, q)) }() })
		return
	}
	handle(s, m, fn)
}

// A field that a walk forgets would be lost without a word.
func TestEveryFieldTravels(t *testing.T) {
	ops, names := map[Op]bool{}, map[string]bool{}
	for _, m := range allMethods() {
		op, name := m.opName()
		if ops[op] || names[name] {
			t.Errorf("operation %d %s is there twice", op, name)
		}
		ops[op], names[name] = true, true
		m.checkWalks(t)
	}
}

// The whole contract over a network: what arrives is what was sent, both ways.
func TestContractOverTheNetwork(t *testing.T) {
	e := newEnv(t)
	var got any
	for _, m := range contractMethods() {
		m.echo(e.server, func(q any) { got = q })
	}
	e.serve()
	methods := map[string]anyMethod{}
	for _, m := range contractMethods() {
		methods[m.interfaceMethod()] = m
	}
	stubs := []reflect.Value{
		reflect.ValueOf(e.client.Master(e.address)).Convert(reflect.TypeFor[quarry.Master]()),
		reflect.ValueOf(e.client.ChunkServer(e.address)).Convert(reflect.TypeFor[quarry.ChunkServer]()),
	}
	types := []reflect.Type{reflect.TypeFor[quarry.Master](), reflect.TypeFor[quarry.ChunkServer]()}
	called := 0
	for i, stub := range stubs {
		for j := range types[i].NumMethod() {
			name := types[i].Method(j).Name
			m := methods[name]
			if m == nil {
				t.Errorf("%v.%s is not in the table of methods", types[i], name)
				continue
			}
			got = nil
			reply, err := callByName(t, stub, name, m.fullRequest())
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			called++
			if _, none := got.(*nothing); !none && !reflect.DeepEqual(got, m.fullRequest()) {
				t.Errorf("%s: the server got %+v, sent was %+v", name, got, m.fullRequest())
			}
			if _, none := m.fullReply().(*nothing); !none && !reflect.DeepEqual(reply, m.fullReply()) {
				t.Errorf("%s: the client got %+v, sent was %+v", name, reply, m.fullReply())
			}
		}
	}
	if called != len(methods) {
		t.Errorf("%d methods were called, there are %d", called, len(methods))
	}
}

// callByName calls a method of a stub, whichever of the contract's forms it has.
func callByName(t *testing.T, stub reflect.Value, name string, req any) (reply any, err error) {
	fn := stub.MethodByName(name)
	args := []reflect.Value{reflect.ValueOf(t.Context())}
	switch fn.Type().NumIn() {
	case 1:
	case 2:
		args = append(args, reflect.ValueOf(req))
	case 3:
		done := make(chan struct{})
		args = append(args, reflect.ValueOf(req), reflect.MakeFunc(fn.Type().In(2), func(out []reflect.Value) []reflect.Value {
			reply = out[0].Interface()
			err, _ = out[1].Interface().(error)
			close(done)
			return nil
		}))
		fn.Call(args)
		<-done
		return reply, err
	}
	out := fn.Call(args)
	err, _ = out[len(out)-1].Interface().(error)
	if len(out) == 2 {
		reply = out[0].Interface()
	}
	return reply, err
}

// testdata/frames.txt is what the first release sends; it stays as it is. A new operation
// adds lines; a field added to a message changes them, which is no harm as long as the lines
// of earlier releases, kept in files of their own, can still be read.
func TestGoldenFrames(t *testing.T) {
	var b strings.Builder
	for _, m := range allMethods() {
		op, name := m.opName()
		request, reply := m.golden()
		fmt.Fprintf(&b, "%d %s request %s\n%d %s reply %s\n", op, name, hex.EncodeToString(request), op, name, hex.EncodeToString(reply))
	}
	e := encodeError(quarry.Wrap("make", "/a/b", &quarry.Error{Op: "route", Kind: quarry.NotLeader, Err: &quarry.NotLeaderError{Leader: 3, Address: "h:1"}}))
	frame, err := appendFrame(nil, head{version: 1, kind: kindError, op: opMake, id: 78}, e, errorFields)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "%d make error %s\n", opMake, hex.EncodeToString(frame))
	h := filled[hello]()
	frame, err = appendFrame(nil, head{kind: kindHello}, h, helloFields)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "0 - hello %s\n", hex.EncodeToString(frame))
	path := filepath.Join("testdata", "frames.txt")
	if os.Getenv("REWRITE") != "" {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, wanted := strings.Split(b.String(), "\n"), strings.Split(string(want), "\n")
	for i := range max(len(got), len(wanted)) {
		if i >= len(got) || i >= len(wanted) || got[i] != wanted[i] {
			t.Fatalf("%s, line %d differs; REWRITE=1 writes it anew", path, i+1)
		}
	}
}

func FuzzMessages(f *testing.F) {
	for i, m := range allMethods() {
		request, reply := m.golden()
		f.Add(uint8(i), request[headBytes:])
		f.Add(uint8(i), reply[headBytes:])
	}
	methods := allMethods()
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		methods[int(which)%len(methods)].fuzz(t, body)
	})
}

func TestErrorsTravel(t *testing.T) {
	leader := &quarry.NotLeaderError{Leader: 7, Address: "m3:8000"}
	shard := &quarry.WrongShardError{Slot: 17, Map: 9}
	for _, err := range []error{
		&quarry.Error{Op: "stat", Kind: quarry.NotFound, Subject: "/a", Err: errors.New("no such name")},
		quarry.NotEmpty,
		&quarry.Error{Op: "read", Kind: quarry.Confirm},
		quarry.Wrap("append", "chunk", &quarry.Error{Op: "write", Kind: quarry.NoSpace, Subject: "disk 3", Err: errors.New("ENOSPC")}),
		&quarry.Error{Op: "make", Kind: quarry.NotLeader, Err: leader},
		&quarry.Error{Op: "make", Kind: quarry.WrongShard, Err: shard},
		errors.New("something else"),
		context.DeadlineExceeded,
		quarry.Errorf("x", quarry.Busy, strings.Repeat("s", 10000), "%s", strings.Repeat("ä", 10000)),
	} {
		got := decodeError(wire.Marshal(nil, encodeError(err), errorFields))
		if quarry.KindOf(got) != quarry.KindOf(err) {
			t.Errorf("%v became %v", err, got)
		}
		if len(err.Error()) < 1000 && !strings.Contains(got.Error(), err.Error()) {
			t.Errorf("%q became %q", err, got)
		}
		var l *quarry.NotLeaderError
		if errors.As(err, &l) && (!errors.As(got, &l) || *l != *leader) {
			t.Errorf("%v became %v", err, got)
		}
		var s *quarry.WrongShardError
		if errors.As(err, &s) && (!errors.As(got, &s) || *s != *shard) {
			t.Errorf("%v became %v", err, got)
		}
	}
}
