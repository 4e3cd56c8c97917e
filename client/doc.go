// Package client is Quarry's Go library: files that are written, read and appended to by
// path.
//
// [Open] connects to a cluster and returns an [FS]. The masters are asked for names and
// layouts only; bytes go straight to and from the chunk servers.
//
//	files, err := client.Open(ctx, []string{"127.0.0.1:7400"}, client.Options{})
//	defer files.Close()
//
// A whole file is stored in one step, and read as any io.Reader, io.ReaderAt or io.Seeker is:
//
//	info, err := files.Put(ctx, "/logs/today", r, client.PutOptions{Size: size})
//	f, err := files.Open(ctx, "/logs/today")
//	_, err = io.Copy(w, f)
//
// A log grows by records, which many append at the same time and others follow. Each record that
// was acknowledged is in it once, and keeps its boundaries:
//
//	offset, err := files.Append(ctx, "/events", record)
//
//	for r, err := range files.Records(ctx, "/events", 0) { ... } // those that are there
//
//	tail, err := files.Tail(ctx, "/events", offset)
//	for r, err := range tail.Records() { ... } // those that come, too
//
// Code that knows nothing of Quarry gets a fs.FS ([FS.View]), an io.Writer ([FS.Create]) or the
// bytes of a log as they come (a [Tail] is an io.Reader). Tests get a whole cluster in their process
// from package cluster/clustertest, and one in memory that can be told to fail from
// client/clienttest.
//
// # Paths
//
// A path is a list of names separated by '/'. A leading '/', a trailing one and doubled ones
// mean nothing; "." and ".." are refused. Names are bytes: 1 to 255 of them, without NUL.
//
// # The walks
//
// Write: [FS.Create] makes a file that is visible while it is written; its bytes are cut
// into records of 256 KiB that are appended in order ([FS.Appender] does the same with
// records of the caller's). [FS.Put] writes chunks that nobody else sees, several at the
// same time, and publishes them with the name in one step at the end.
//
// Read: [FS.Open] fetches the layout in pages and reads from the nearest replica of each
// chunk, ahead of a sequential reader and from several chunks at the same time. A replica
// that is slow, gone or corrupt is passed over for the next one. Every checksum is verified.
// A replica on this machine is read from its file, which the server lends (local.go).
//
// Append: a record is sent to the primary of the file's last chunk and acknowledged when all
// replicas have it on disk. When the chunk is sealed under it, the sealed replicas are asked
// what became of it before it is sent to the next chunk; so it is appended exactly once.
//
// # Consistency
//
// A read that begins after a write, append or [FS.Put] was acknowledged sees it. A read at the
// known end of a file asks again where the end is. Bytes that were seen never change.
//
// # Contexts
//
// The context of a call bounds the call. The context given to [FS.Open], [FS.Create],
// [FS.Appender] and [FS.Tail] also bounds the life of what they return. A call whose context ends may
// have done its work: its error is quarry.Unknown where that cannot be told.
//
// # Errors
//
// Errors are *quarry.Error with the path as subject; errors.Is knows their kinds and the
// words of io/fs, such as fs.ErrNotExist.
//
// # Bounds
//
// The memory of a stream does not depend on the size of its file: a writer keeps at most
// quarry.WindowBytes, all writers of a client together [flight.Most] and no more than the network and the disks take in some
// seconds, a reader at most [Options.ReadAhead], all readers together as writers, and less where that makes nothing
// faster: on a fast link, and beside other readers (package window). A sequential reader that comes with 1 MiB of memory
// at a time has it filled straight from the network, without a copy; with a window of one it keeps no memory of its own
// (readahead.go). Layouts are cached a few pages per file.
package client
