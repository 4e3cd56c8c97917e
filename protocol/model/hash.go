package model

import (
	"math"
	"reflect"
)

// hasher folds whatever decides the future of a state into 64 bits. It looks into
// unexported fields, so a machine needs no code for it.
type hasher uint64

func (h *hasher) word(x uint64) {
	v := (uint64(*h) ^ x) * 0x9e3779b97f4a7c15
	*h = hasher(v ^ v>>29)
}

func hash(v any) uint64 {
	h := hasher(0x51ed270b)
	h.value(reflect.ValueOf(v))
	return uint64(h)
}

func (h *hasher) value(v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		if v.Bool() {
			h.word(1)
		} else {
			h.word(2)
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		h.word(uint64(v.Int()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		h.word(v.Uint())
	case reflect.Float64:
		h.word(math.Float64bits(v.Float()))
	case reflect.String:
		h.word(uint64(v.Len()))
		for _, b := range []byte(v.String()) {
			h.word(uint64(b))
		}
	case reflect.Slice, reflect.Array:
		h.word(uint64(v.Len()))
		for i := range v.Len() {
			h.value(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			h.value(v.Field(i))
		}
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			h.word(3)
			return
		}
		if v.Kind() == reflect.Interface {
			h.value(reflect.ValueOf(v.Elem().Type().String()))
		}
		h.value(v.Elem())
	default:
		panic("model: cannot hash a " + v.Kind().String())
	}
}
