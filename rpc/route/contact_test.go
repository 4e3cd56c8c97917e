package route

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
)

// TestContact waits for busy masters, and not for long where nobody listens.
func TestContact(t *testing.T) {
	for name, test := range map[string]struct {
		set      func(*cluster)
		limit    time.Duration
		min, max time.Duration
		fails    string
	}{
		"all is well":      {func(*cluster) {}, 0, 0, 0, ""},
		"busy masters":     {func(c *cluster) { late(c, 7*time.Second) }, 0, 7 * time.Second, 20 * time.Second, ""},
		"very busy":        {func(c *cluster) { late(c, 12*time.Second) }, 0, 12 * time.Second, 30 * time.Second, ""},
		"one is late":      {func(c *cluster) { c.nodes[0].dead, c.nodes[1].dead, c.nodes[2].late = true, true, 3*time.Second }, 0, 3 * time.Second, 7 * time.Second, ""},
		"silence":          {func(c *cluster) { c.nodes[0].silent, c.nodes[1].silent, c.nodes[2].silent = true, true, true }, 0, 30 * time.Second, 31 * time.Second, "within 30s"},
		"nobody listens":   {func(c *cluster) { c.nodes[0].dead, c.nodes[1].dead, c.nodes[2].dead = true, true, true }, 0, 10 * time.Second, 11 * time.Second, "within 10s"},
		"told how long":    {func(c *cluster) { c.nodes[0].dead, c.nodes[1].dead, c.nodes[2].dead = true, true, true }, 20 * time.Second, 20 * time.Second, 21 * time.Second, "within 20s"},
		"told, and busy":   {func(c *cluster) { late(c, 7*time.Second) }, 2 * time.Second, 2 * time.Second, 3 * time.Second, "within 2s"},
		"longer than ever": {func(c *cluster) { late(c, 20*time.Second) }, 25 * time.Second, 25 * time.Second, 26 * time.Second, "within 25s"},
		"refused, then silent": {func(c *cluster) {
			late(c, 14*time.Second)
			c.nodes[0].dead = true
			time.AfterFunc(5*time.Second, func() { c.set(func() { c.nodes[0].dead = false }) })
		}, 0, 14 * time.Second, 30 * time.Second, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster()
				c.set(func() { test.set(c) })
				m := c.masters(t)
				start := time.Now()
				_, err := m.Contact(t.Context(), test.limit)
				if took := time.Since(start); took < test.min || took > test.max {
					t.Errorf("it took %v", took)
				}
				if test.fails == "" {
					if err != nil || !m.known() {
						t.Error(err)
					}
					return
				}
				if quarry.KindOf(err) != quarry.Unavailable || !strings.Contains(err.Error(), test.fails+"; check the addresses") {
					t.Error(err)
				}
				if c.nodes[0].dead && !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("it does not say why: %v", err)
				}
			})
		})
	}
}

func late(c *cluster, by time.Duration) {
	for _, n := range c.nodes {
		n.late = by
	}
}
