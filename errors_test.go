package quarry_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/quarryfs/quarry"
)

func TestErrorsReadWell(t *testing.T) {
	missing := quarry.Errorf("lookup", quarry.NotFound, `"x"`, "there is no such name")
	for _, c := range []struct {
		err  error
		want string
	}{
		{missing, `lookup "x": not found: there is no such name`},
		{quarry.Wrap("lookup", "", missing), `lookup "x": not found: there is no such name`},
		{quarry.Wrap("stat", "/x", quarry.Wrap("lookup", "", missing)), `stat /x: lookup "x": not found: there is no such name`},
		{quarry.Wrap("lookup", "/x", missing), `lookup /x: lookup "x": not found: there is no such name`},
		{quarry.Wrap("read", "/x", context.Canceled), `read /x: unavailable: context canceled`},
		{&quarry.Error{Op: "read", Kind: quarry.Busy}, "read: busy"},
		{&quarry.Error{Op: "put", Kind: quarry.Unknown, Subject: "/x", Err: missing}, `put /x: outcome unknown: lookup "x": not found: there is no such name`},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

func TestErrorKinds(t *testing.T) {
	if quarry.Wrap("stat", "/x", nil) != nil {
		t.Error("no error was made one")
	}
	err := fmt.Errorf("more: %w", quarry.Wrap("stat", "/x", quarry.Errorf("lookup", quarry.NotFound, "", "gone")))
	if quarry.KindOf(err) != quarry.NotFound || !errors.Is(err, quarry.NotFound) || !errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) {
		t.Errorf("%v has kind %v", err, quarry.KindOf(err))
	}
	for err, want := range map[error]quarry.Kind{
		context.DeadlineExceeded: quarry.Unavailable, errors.New("x"): quarry.Internal, quarry.Full: quarry.Full,
		quarry.Wrap("seal", "", errors.New("x")): quarry.Internal,
	} {
		if got := quarry.KindOf(err); got != want {
			t.Errorf("%v has kind %v, want %v", err, got, want)
		}
	}
}
