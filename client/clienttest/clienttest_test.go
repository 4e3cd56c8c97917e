package clienttest_test

import (
	"testing"
	"testing/synctest"

	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/client/clienttest"
)

func TestSuite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clienttest.New(clienttest.Config{})
		defer c.Close()
		files := c.Client(client.Options{})
		defer files.Close()
		clienttest.Run(t, files)
	})
}
