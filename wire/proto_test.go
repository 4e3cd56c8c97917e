package wire

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// sampleProto describes sample in the words of Protocol Buffers.
func sampleProto(t testing.TB) protoreflect.MessageDescriptor {
	type T = descriptorpb.FieldDescriptorProto_Type
	field := func(num int32, name string, typ T, repeated bool) *descriptorpb.FieldDescriptorProto {
		label := descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL
		if repeated {
			label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED
		}
		f := &descriptorpb.FieldDescriptorProto{Name: &name, Number: &num, Type: &typ, Label: &label}
		if typ == descriptorpb.FieldDescriptorProto_TYPE_MESSAGE {
			f.TypeName = proto.String(".q.Inner")
		}
		return f
	}
	const (
		u64, i64, u32 = descriptorpb.FieldDescriptorProto_TYPE_UINT64, descriptorpb.FieldDescriptorProto_TYPE_INT64, descriptorpb.FieldDescriptorProto_TYPE_UINT32
		i32, yes      = descriptorpb.FieldDescriptorProto_TYPE_INT32, descriptorpb.FieldDescriptorProto_TYPE_BOOL
		str, raw, msg = descriptorpb.FieldDescriptorProto_TYPE_STRING, descriptorpb.FieldDescriptorProto_TYPE_BYTES, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE
	)
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("q.proto"), Package: proto.String("q"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{
			{Name: proto.String("Sample"), Field: []*descriptorpb.FieldDescriptorProto{
				field(1, "handle", u64, false), field(2, "offset", i64, false), field(3, "small", u32, false),
				field(4, "signed", i32, false), field(5, "yes", yes, false), field(6, "name", raw, false),
				field(7, "data", raw, false), field(8, "id", raw, false), field(9, "ids", raw, true),
				field(10, "sums", u32, true), field(11, "names", str, true), field(12, "inner", msg, false),
				field(13, "optional", msg, false), field(2000, "list", msg, true),
			}},
			{Name: proto.String("Inner"), Field: []*descriptorpb.FieldDescriptorProto{
				field(1, "offset", i64, false), field(2, "text", str, false), field(3, "deeper", msg, false),
			}},
		},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return file.Messages().ByName("Sample")
}

// A Protocol Buffers library reads what Marshal writes, knows every field of it, and writes
// the same bytes.
func TestProtocolBuffers(t *testing.T) {
	m := fullSample()
	b := Marshal(nil, &m, sampleFields)
	message := dynamicpb.NewMessage(sampleProto(t))
	if err := proto.Unmarshal(b, message); err != nil {
		t.Fatal(err)
	}
	if unknown := message.GetUnknown(); len(unknown) > 0 {
		t.Errorf("fields unknown to the library: %x", unknown)
	}
	fields := message.Descriptor().Fields()
	if got := message.Get(fields.ByName("signed")).Int(); got != int64(m.Signed) {
		t.Errorf("signed = %d", got)
	}
	if got := message.Get(fields.ByName("list")).List().Len(); got != len(m.List) {
		t.Errorf("%d elements", got)
	}
	again, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again, b) {
		t.Errorf("the library writes\n%x instead of\n%x", again, b)
	}
}

func TestWrappers(t *testing.T) {
	type box struct{ Value int64 }
	walk := func(w *Walk, m *box) { Uint(w, 1, &m.Value) }
	for _, v := range []int64{0, 1, -1, 1 << 62, -1 << 63} {
		b, err := proto.Marshal(wrapperspb.Int64(v))
		if err != nil {
			t.Fatal(err)
		}
		var m box
		if err := Unmarshal(b, &m, walk); err != nil || m.Value != v {
			t.Errorf("read %d, %v; want %d", m.Value, err, v)
		}
		if got := Marshal(nil, &m, walk); !bytes.Equal(got, b) {
			t.Errorf("wrote %x, want %x", got, b)
		}
	}
}

func BenchmarkMarshal(b *testing.B) {
	m, buf := fullSample(), make([]byte, 0, 4096)
	b.SetBytes(int64(len(Marshal(nil, &m, sampleFields))))
	b.ReportAllocs()
	for b.Loop() {
		buf = Marshal(buf[:0], &m, sampleFields)
	}
}

func BenchmarkUnmarshal(b *testing.B) {
	m := fullSample()
	buf := Marshal(nil, &m, sampleFields)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		var m sample
		if err := Unmarshal(buf, &m, sampleFields); err != nil {
			b.Fatal(err)
		}
	}
}

// request is what most messages look like: a dozen numbers and a name.
type request struct {
	A, B, C, D, E, F, G, H uint64
	Name                   string
}

func requestFields(w *Walk, m *request) {
	Uint(w, 1, &m.A)
	Uint(w, 2, &m.B)
	Uint(w, 3, &m.C)
	Uint(w, 4, &m.D)
	Uint(w, 5, &m.E)
	Uint(w, 6, &m.F)
	Uint(w, 7, &m.G)
	Uint(w, 8, &m.H)
	String(w, 9, &m.Name, 255)
}

func BenchmarkRequest(b *testing.B) {
	m := request{A: 1 << 60, B: 3, C: 77777, E: 1 << 30, F: 256 << 10, H: 4, Name: "part-00017"}
	buf := make([]byte, 0, 256)
	b.ReportAllocs()
	for b.Loop() {
		buf = Marshal(buf[:0], &m, requestFields)
		if err := Unmarshal(buf, &m, requestFields); err != nil {
			b.Fatal(err)
		}
	}
}
