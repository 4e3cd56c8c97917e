package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"strings"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/client/clienttest"
	"github.com/quarryfs/quarry/clock"
)

// connect is what stands for a cluster in the examples: one in memory. Programs say
//
//	files, err := client.Open(ctx, []string{"master-1:7400", "master-2:7400"}, client.Options{})
//
// and tests of other modules clustertest.Start(t).
func connect() (files *client.FS, end func()) {
	c := clienttest.New(clienttest.Config{Clock: clock.System()})
	files = c.Client(client.Options{})
	return files, func() {
		_ = files.Close()
		c.Close()
	}
}

// check ends an example that fails.
func check(err error) {
	if err != nil {
		log.Panic(err)
	}
}

// A file is put under a name, whole and in one step, and read.
func Example() {
	files, end := connect()
	defer end()
	ctx := context.Background()

	check(files.MkdirAll(ctx, "/reports/2024"))
	info, err := files.Put(ctx, "/reports/2024/may", strings.NewReader("all is well\n"), client.PutOptions{})
	check(err)
	fmt.Println(info.Name(), info.Size())

	f, err := files.Open(ctx, "/reports/2024/may")
	check(err)
	defer f.Close()
	b, err := io.ReadAll(f)
	check(err)
	fmt.Print(string(b))
	// Output:
	// may 12
	// all is well
}

// Errors tell the path, and errors.Is what has happened, in the words of io/fs or of package quarry.
func ExampleFS_Open_error() {
	files, end := connect()
	defer end()
	_, err := files.Open(context.Background(), "/nothing")
	fmt.Println(errors.Is(err, fs.ErrNotExist), errors.Is(err, quarry.NotFound))
	var e *quarry.Error
	fmt.Println(errors.As(err, &e), e.Op, e.Subject)
	// Output:
	// true true
	// true open /nothing
}

// A file is an io.ReaderAt, too: any part of it is read from whatever chunks it is in.
func ExampleFile_ReadAt() {
	files, end := connect()
	defer end()
	ctx := context.Background()
	_, err := files.Put(ctx, "/f", strings.NewReader("0123456789"), client.PutOptions{})
	check(err)
	f, err := files.Open(ctx, "/f")
	check(err)
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, 3, 4))
	check(err)
	fmt.Println(string(b))
	// Output: 3456
}

// What a writer writes is seen by others while it is written; after Sync it surely is.
func ExampleFS_Create() {
	files, end := connect()
	defer end()
	ctx := context.Background()
	w, err := files.Create(ctx, "/growing")
	check(err)
	fmt.Fprintln(w, "first line")
	check(w.Sync())
	info, err := files.Stat(ctx, "/growing")
	check(err)
	fmt.Println(info.Size())
	check(w.Close())
	// Output: 11
}

// A record that was acknowledged is in the file once, whole, on the disks of all replicas; its
// offset is where everybody finds it.
func ExampleFS_Append() {
	files, end := connect()
	defer end()
	ctx := context.Background()
	w, err := files.Create(ctx, "/events")
	check(err)
	check(w.Close())
	for _, record := range []string{"start", "work", "stop"} {
		offset, err := files.Append(ctx, "/events", []byte(record))
		check(err)
		fmt.Println(offset, record)
	}
	// Output:
	// 0 start
	// 5 work
	// 9 stop
}

// Who appends often, from one goroutine or many, keeps an Appender.
func ExampleFS_Appender() {
	files, end := connect()
	defer end()
	ctx := context.Background()
	_, err := files.Put(ctx, "/events", strings.NewReader(""), client.PutOptions{})
	check(err)
	events, err := files.Appender(ctx, "/events")
	check(err)
	for i := range 3 {
		_, err := events.Append(ctx, fmt.Appendf(nil, "event %d\n", i))
		check(err)
	}
	check(events.Close())
	info, err := files.Stat(ctx, "/events")
	check(err)
	fmt.Println(info.Size())
	// Output: 24
}

// Records have the boundaries that they were appended with: nothing has to mark them in the bytes.
func ExampleFS_Records() {
	files, end := connect()
	defer end()
	ctx := context.Background()
	_, err := files.Put(ctx, "/events", strings.NewReader(""), client.PutOptions{})
	check(err)
	for _, record := range []string{"start", "work", "stop"} {
		_, err := files.Append(ctx, "/events", []byte(record))
		check(err)
	}
	for r, err := range files.Records(ctx, "/events", 0) {
		check(err)
		fmt.Printf("%d %s\n", r.Offset, r.Data)
	}
	// Output:
	// 0 start
	// 5 work
	// 9 stop
}

// A tail waits for more at the end. Who remembers Offset goes on there after a restart.
func ExampleTail_Records() {
	files, end := connect()
	defer end()
	ctx := context.Background()
	_, err := files.Put(ctx, "/events", strings.NewReader(""), client.PutOptions{})
	check(err)
	tail, err := files.Tail(ctx, "/events", 0)
	check(err)
	defer tail.Close()
	go func() {
		for _, record := range []string{"start", "work", "stop"} {
			_, err := files.Append(ctx, "/events", []byte(record))
			check(err)
		}
	}()
	for r, err := range tail.Records() {
		check(err)
		fmt.Printf("%s\n", r.Data)
		if string(r.Data) == "stop" {
			break
		}
	}
	fmt.Println("go on at", tail.Offset())
	// Output:
	// start
	// work
	// stop
	// go on at 13
}

// The bytes of a file, as they come.
func ExampleFS_Tail() {
	files, end := connect()
	defer end()
	ctx := context.Background()
	_, err := files.Put(ctx, "/log", strings.NewReader("already there, "), client.PutOptions{})
	check(err)
	tail, err := files.Tail(ctx, "/log", 0)
	check(err)
	defer tail.Close()
	go func() {
		_, err := files.Append(ctx, "/log", []byte("and more"))
		check(err)
	}()
	b, err := io.ReadAll(io.LimitReader(tail, 23))
	check(err)
	fmt.Println(string(b))
	// Output: already there, and more
}

// A directory is gone through page after page, however large it is.
func ExampleFS_Entries() {
	files, end := connect()
	defer end()
	ctx := context.Background()
	for _, name := range []string{"/c", "/a", "/b"} {
		_, err := files.Put(ctx, name, strings.NewReader(name), client.PutOptions{})
		check(err)
	}
	for info, err := range files.Entries(ctx, "/") {
		check(err)
		fmt.Println(info.Name(), info.Size(), info.IsDir())
	}
	// Output:
	// a 2 false
	// b 2 false
	// c 2 false
}

// A view is a fs.FS, for whatever takes one.
func ExampleFS_View() {
	files, end := connect()
	defer end()
	ctx := context.Background()
	check(files.MkdirAll(ctx, "/site/img"))
	_, err := files.Put(ctx, "/site/index.html", strings.NewReader("<h1>hello</h1>"), client.PutOptions{})
	check(err)

	view := files.View(ctx, "/site")
	check(fs.WalkDir(view, ".", func(path string, d fs.DirEntry, err error) error {
		fmt.Println(path)
		return err
	}))
	http.Handle("/", http.FileServerFS(view)) // serves ranges, too
	// Output:
	// .
	// img
	// index.html
}

// Mode, owner and time are kept and shown. What is not named stays as it is.
func ExampleFS_SetAttr() {
	files, end := connect()
	defer end()
	ctx := context.Background()
	_, err := files.Put(ctx, "/f", strings.NewReader("x"), client.PutOptions{Mode: new(uint32(0o640))})
	check(err)
	uid, at := uint32(1000), time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)
	info, err := files.SetAttr(ctx, "/f", client.AttrChange{UID: &uid, Modified: &at})
	check(err)
	fmt.Println(info.Mode(), info.Attr.UID, info.ModTime().UTC())
	// Output: -rw-r----- 1000 2024-05-01 12:00:00 +0000 UTC
}

// A removed file is kept for a while, and comes back whole.
func ExampleFS_Undelete() {
	files, end := connect()
	defer end()
	ctx := context.Background()
	_, err := files.Put(ctx, "/f", strings.NewReader("precious"), client.PutOptions{})
	check(err)
	check(files.Remove(ctx, "/f"))
	for r, err := range files.Trash(ctx, "/") {
		check(err)
		fmt.Println("in the trash:", r.Path)
	}
	info, err := files.Undelete(ctx, "/f", client.UndeleteOptions{})
	check(err)
	fmt.Println("back:", info.Path, info.Size())
	// Output:
	// in the trash: /f
	// back: /f 8
}
