package sim

import "github.com/quarryfs/quarry"

// I7: a record, which is a session and a sequence in a file, is committed at most once, at the
// offset that was acknowledged. I8: a fate "absent" is never followed, and was never preceded,
// by a commit in that chunk below that seal.

// recordKey names a record. Chunks that belong to a session and to no file yet are files of
// their own.
type recordKey struct {
	file   quarry.Inode
	handle quarry.Handle // of a chunk without a file
	record sequence
}

// position is where a record stands.
type position struct {
	handle quarry.Handle
	offset int64
}

// committed judges and notes that a record stands somewhere.
func (o *observer) committed(handle quarry.Handle, s sequence, offset int64, who string) {
	c := o.chunk(handle)
	if offset < c.absent[s] {
		o.violated("I8 absent stays absent", "record %d of session %d is at %d of chunk %v by %s, and was said to be absent", s.number, s.session, offset, handle, who)
	}
	key := recordKey{file: c.file, record: s}
	if c.file == 0 {
		key.handle = handle
	}
	at := position{handle, offset}
	if before, known := o.records[key]; known && before != at {
		o.violated("I7 records are committed once", "record %d of session %d is at %d of chunk %v by %s, and was at %d of chunk %v",
			s.number, s.session, offset, handle, who, before.offset, before.handle)
		return
	}
	o.records[key] = at
	o.inOrder(key, at)
}

// inOrder judges that a record stands behind the one before it, and before the one behind it. What
// is made for a file stands there in the order of handles.
func (o *observer) inOrder(key recordKey, at position) {
	if key.file == 0 {
		return // its place says nothing yet
	}
	for _, step := range []int{-1, 1} {
		next := key
		next.record.number = quarry.Sequence(int64(key.record.number) + int64(step))
		there, known := o.records[next]
		if !known {
			continue
		}
		first, second := there, at
		if step > 0 {
			first, second = at, there
		}
		a, b := o.chunk(first.handle), o.chunk(second.handle)
		if first.handle == second.handle && first.offset > second.offset || first.handle != second.handle && a.made && b.made && first.handle > second.handle {
			o.violated("I7 records are committed once", "record %d of session %d is at %d of chunk %v, and the one on the other side of it, %d, at %d of chunk %v",
				key.record.number, key.record.session, at.offset, at.handle, next.record.number, there.offset, there.handle)
		}
	}
}

// fates judges and notes what a replica says became of records.
func (o *observer) fates(h *Host, req *quarry.FateRequest, reply *quarry.FateReply) {
	o.sealTold(req.Handle, reply.Version, reply.Length, "a fate")
	c := o.chunk(req.Handle)
	for _, f := range reply.Fates {
		s := sequence{req.Session, f.Sequence}
		o.log.Detail("%-4s says of record %d of session %d in chunk %v: state %d at %d", h.name, f.Sequence, req.Session, req.Handle, f.State, f.Offset)
		switch f.State {
		case quarry.FateCommitted:
			o.log.Count("fate committed")
			o.committed(req.Handle, s, f.Offset, "a fate of "+h.name)
		case quarry.FateAbsent:
			o.log.Count("fate absent")
			key := recordKey{file: c.file, record: s}
			if c.file == 0 {
				key.handle = req.Handle
			}
			if at, known := o.records[key]; known && at.handle == req.Handle && at.offset < reply.Length {
				o.violated("I8 absent stays absent", "%s says that record %d of session %d is absent from chunk %v, where it is at %d",
					h.name, s.number, s.session, req.Handle, at.offset)
			}
			c.absent[s] = max(c.absent[s], reply.Length)
		default:
			o.log.Count("fate unknown")
		}
	}
}
