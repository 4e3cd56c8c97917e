package client_test

import (
	"context"
	"sync"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/client/clienttest"
	"github.com/quarryfs/quarry/rpc/route"
)

// listing is a master that does something between a list and its answer.
type listing struct {
	quarry.Master
	listed func(*quarry.ListReply)
}

func (l *listing) List(ctx context.Context, req *quarry.ListRequest) (*quarry.ListReply, error) {
	r, err := l.Master.List(ctx, req)
	if err == nil {
		l.listed(r)
	}
	return r, err
}

// TestRemoveAllOfAnOldPage moves a directory out of a tree that is being removed, when the page
// that has it was read: it keeps what is in it, whether its old name is free or not.
func TestRemoveAllOfAnOldPage(t *testing.T) {
	for name, again := range map[string]bool{"free": false, "taken": true} {
		t.Run(name, func(t *testing.T) {
			run(t, clienttest.Config{}, client.Options{}, func(e *env) {
				for _, dir := range []string{"/tree", "/tree/a", "/tree/b"} {
					e.must(e.files.Mkdir(e.Context(), dir))
				}
				data := clienttest.Bytes(1, 1000)
				e.put("/tree/a/f", data)
				e.put("/tree/b/f", data)
				var once sync.Once
				masters, err := route.New(route.Options{
					Addresses: []string{"m:1"}, Clock: e.c.Clock(),
					Dial: func(string) (quarry.Master, error) {
						return &listing{e.c.Master(), func(*quarry.ListReply) {
							once.Do(func() {
								e.must(e.files.Rename(e.Context(), "/tree/b", "/kept"))
								if again {
									e.create("/tree/b")
								}
							})
						}}, nil
					},
				})
				e.must(err)
				remover := client.New(masters, e.c.ChunkServer, client.Options{Clock: e.c.Clock()})
				e.must(remover.RemoveAll(e.Context(), "/tree"))
				e.must(remover.Close())
				e.expect("/kept/f", data)
				_, err = e.files.Stat(e.Context(), "/tree")
				e.want(err, quarry.NotFound)
			})
		})
	}
}
