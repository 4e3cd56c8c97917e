package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/quarryfs/quarry"
)

var errClosed = &quarry.Error{Op: "client", Kind: quarry.Unavailable, Err: errors.New("the client is closed")}

// advice tells what to do about errors whose own text comes from deep below.
var advice = map[quarry.Kind]string{
	quarry.Unavailable:    "check that the masters and chunk servers run, then try again",
	quarry.Unknown:        "it may have been done or not: look before trying again",
	quarry.SessionExpired: "try again: a new session is opened",
	quarry.NoSpace:        "remove files or add disks, then try again",
	quarry.Busy:           "try again later",
	quarry.Corrupt:        "no replica with right checksums was found: see the health report",
	quarry.Permission:     "check that client and cluster belong together",
}

// fail is the error of an operation on a path.
func fail(op, path string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := err.(*quarry.Error); ok && e.Subject == path && e.Op != "" {
		return err // it says all this already
	}
	kind := quarry.KindOf(err)
	if a := advice[kind]; a != "" && !errors.Is(err, context.Canceled) && !errors.Is(err, errClosed) {
		return &quarry.Error{Op: op, Kind: kind, Subject: path, Err: fmt.Errorf("%w; %s", err, a)}
	}
	return quarry.Wrap(op, path, err)
}
