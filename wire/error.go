package wire

import (
	"errors"
	"strings"

	"github.com/quarryfs/quarry"
	"google.golang.org/protobuf/encoding/protowire"
)

// errorBytesMax bounds each text of an error.
const errorBytesMax = 512

// Error walks a field that holds an error: its kind, operation, subject and text, cut at
// 512 bytes each. What is read is nil or a *quarry.Error.
func Error(w *Walk, num protowire.Number, err *error) {
	var e errorRecord
	if !w.Reading() {
		e.from(*err)
	}
	Message(w, num, &e, errorFields)
	if w.Reading() {
		*err = e.err()
	}
}

// errorRecord is an error as a result carries it.
type errorRecord struct {
	Kind    quarry.Kind
	Op      string
	Subject string
	Text    string
}

func errorFields(w *Walk, e *errorRecord) {
	Uint(w, 1, &e.Kind)
	String(w, 2, &e.Op, errorBytesMax)
	String(w, 3, &e.Subject, errorBytesMax)
	String(w, 4, &e.Text, errorBytesMax)
}

func (e *errorRecord) from(err error) {
	if err == nil {
		return
	}
	e.Kind = quarry.KindOf(err)
	var qe *quarry.Error
	if !errors.As(err, &qe) {
		e.Text = clip(err.Error())
		return
	}
	e.Op, e.Subject = clip(qe.Op), clip(qe.Subject)
	if qe.Err != nil {
		e.Text = clip(qe.Err.Error())
	}
}

func (e *errorRecord) err() error {
	if e.Kind == 0 {
		return nil
	}
	err := &quarry.Error{Op: e.Op, Kind: e.Kind, Subject: e.Subject}
	if e.Text != "" {
		err.Err = errors.New(e.Text)
	}
	return err
}

// clip shortens what stands in an error.
func clip(s string) string {
	if len(s) <= errorBytesMax {
		return s
	}
	return strings.ToValidUTF8(s[:errorBytesMax-len("…")], "") + "…"
}
