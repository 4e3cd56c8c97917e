package history

import (
	"context"
	"strings"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/clock"
)

// Settle reads, when a workload is over and faults are healed, every file wholly and lists
// every directory that the recorded operations were about. The reads are recorded as
// operations of one further worker; without them the end of a history can hardly be judged.
// What fails is tried again until ctx ends, which is the only error. c is what is waited by.
func Settle(ctx context.Context, files client.FileSystem, rec *Recorder, c clock.Clock) error {
	h := rec.History()
	s := settler{ctx: ctx, files: files, rec: rec, clock: c}
	type subject struct {
		class Class
		path  string
	}
	var subjects []subject
	seen := map[subject]bool{}
	for i := range h.Ops {
		op := &h.Ops[i]
		s.worker = max(s.worker, op.Worker+1)
		s.client = max(s.client, op.Client)
		if x := (subject{op.Class, op.Subject}); op.Class != ClassSetup && !seen[x] {
			seen[x] = true
			subjects = append(subjects, x)
		}
	}
	for _, x := range subjects {
		var err error
		switch x.class {
		case ClassLog:
			err = s.log(x.path)
		case ClassFile:
			_, err = s.do(Op{Kind: KindRead, Class: ClassFile, Subject: x.path}, func(ctx context.Context, op *Op) error {
				return readWhole(ctx, files, op, op.Subject)
			})
		case ClassNames:
			err = s.tree(x.path, "")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// settler reads what is left at the end.
type settler struct {
	ctx    context.Context
	files  client.FileSystem
	rec    *Recorder
	clock  clock.Clock
	client int32
	worker int32
}

// settleTimeout is how long one operation of Settle may take before it is begun again.
const settleTimeout = 30 * time.Second

// do does an operation until the cluster answers it. A recorder that is full ends it too: the
// history says of itself that it is not whole.
func (s *settler) do(op Op, run func(ctx context.Context, op *Op) error) (Op, error) {
	op.Client, op.Worker, op.Final = s.client, s.worker, true
	pause := 10 * time.Millisecond
	for {
		try := op
		number, ok := s.rec.Begin(try)
		if !ok {
			return op, quarry.Errorf("settle", quarry.TooLarge, op.Subject, "the history is full")
		}
		ctx, cancel := s.clock.WithTimeout(s.ctx, settleTimeout)
		err := run(ctx, &try)
		cancel()
		try.Outcome, try.Error = outcomeOf(err)
		if !try.Kind.mutates() && try.Outcome == Unknown {
			try.Outcome = Failed
		}
		s.rec.End(number, try)
		if try.answered() {
			return try, nil
		}
		if s.clock.Sleep(s.ctx, pause) != nil {
			return try, quarry.Errorf("settle", quarry.Unavailable, op.Subject, "it was not read to its end: %w", err)
		}
		pause = min(2*pause, time.Second)
	}
}

// log reads a log in pieces, each from where the last whole record ended.
func (s *settler) log(log string) error {
	var f *client.File
	defer func() {
		if f != nil {
			f.Close()
		}
	}()
	length := int64(readMax)
	for offset := int64(0); ; {
		cut := int64(0)
		op, err := s.do(Op{Kind: KindRead, Class: ClassLog, Subject: log, Offset: offset}, func(ctx context.Context, op *Op) error {
			if f == nil {
				opened, err := s.files.Open(s.ctx, log)
				if err != nil {
					return err
				}
				f = opened
			}
			var err error
			cut, err = readRange(ctx, f, op, length, true)
			if err != nil {
				f.Close()
				f = nil // try it with what the masters say anew
			}
			return err
		})
		if err != nil {
			return err
		}
		if op.Outcome != Done || op.Bad != "" || op.ToEnd {
			break
		}
		offset = op.End() - cut
	}
	_, err := s.do(Op{Kind: KindStat, Class: ClassLog, Subject: log}, func(ctx context.Context, op *Op) error {
		info, err := s.files.Stat(ctx, log)
		op.Length = info.Attr.Length
		return err
	})
	return err
}

// tree lists a directory of a tree, those below it, and reads the files.
func (s *settler) tree(tree, dir string) error {
	list, err := s.do(Op{Kind: KindList, Class: ClassNames, Subject: tree, Path: dir}, func(ctx context.Context, op *Op) error {
		return listNames(ctx, s.files, op, tree+"/"+dir)
	})
	if err != nil {
		return err
	}
	for _, name := range list.Names {
		name, isDir := strings.CutSuffix(name, "/")
		path := strings.TrimPrefix(dir+"/"+name, "/")
		if isDir {
			err = s.tree(tree, path)
		} else {
			_, err = s.do(Op{Kind: KindRead, Class: ClassNames, Subject: tree, Path: path}, func(ctx context.Context, op *Op) error {
				return readWhole(ctx, s.files, op, tree+"/"+path)
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}
