package voters

import (
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/raft"
)

type ids = []quarry.NodeID

func change(index uint64, voters, outgoing, learners ids) raft.Changed {
	return raft.Changed{Index: index, Term: 1, Voters: voters, Outgoing: outgoing, Learners: learners}
}

func TestMeet(t *testing.T) {
	for _, c := range []struct {
		a, b raft.Changed
		want bool
	}{
		{change(1, ids{1, 2, 3}, nil, nil), change(2, ids{1, 2, 3, 4}, nil, nil), true},
		{change(1, ids{1, 2, 3}, nil, nil), change(2, ids{1, 4, 5}, nil, nil), false},
		{change(1, ids{1, 2, 3}, nil, nil), change(2, ids{1, 2, 3, 4, 5}, nil, nil), false},
		{change(1, ids{1, 2, 3}, nil, nil), change(2, ids{3, 4, 5}, ids{1, 2, 3}, nil), true},
		{change(1, ids{3, 4, 5}, ids{1, 2, 3}, nil), change(2, ids{3, 4, 5}, nil, nil), true},
		{change(1, ids{1}, nil, nil), change(2, ids{2}, nil, nil), false},
		{change(1, ids{1, 2}, nil, nil), change(2, ids{2}, nil, nil), true},
	} {
		if got := Meet(c.a, c.b); got != c.want {
			t.Errorf("%s and %s meet: %v", show(c.a), show(c.b), got)
		}
		if Meet(c.a, c.b) != Meet(c.b, c.a) {
			t.Errorf("%s and %s meet one way only", show(c.a), show(c.b))
		}
	}
}

func TestGroups(t *testing.T) {
	var g Groups
	right := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	wrong := func(err error) {
		t.Helper()
		if err == nil {
			t.Error("it is not noticed")
		}
	}
	begin, learn := change(1, ids{1, 2, 3}, nil, nil), change(5, ids{1, 2, 3}, nil, ids{4})
	joint, end := change(7, ids{1, 2, 4}, ids{1, 2, 3}, nil), change(9, ids{1, 2, 4}, nil, nil)
	for range 2 { // each node tells it
		for _, c := range []raft.Changed{begin, learn, end, joint} { // one may be ahead of the others
			right(g.Changed(1, c))
		}
	}
	right(g.Changed(1, raft.Changed{Index: 4, Voters: ids{7}, Snapshot: true}))
	right(g.Changed(2, change(7, ids{7}, nil, nil))) // another group
	wrong(g.Changed(1, change(7, ids{1, 2, 4}, nil, nil)))
	wrong(g.Changed(1, change(9, ids{1, 2, 4}, nil, ids{5})))
	right(g.Apart())
	right(g.Changed(1, change(12, ids{4, 5, 6}, nil, nil)))
	wrong(g.Apart())

	right(g.Leads(1, 3, 1))
	right(g.Leads(1, 3, 1))
	right(g.Leads(1, 4, 2))
	right(g.Leads(2, 3, 2))
	wrong(g.Leads(1, 3, 2))

	right(g.Is(1, "a"))
	right(g.Is(1, "a"))
	right(g.Is(2, "a"))
	wrong(g.Is(1, "b"))

	var h Groups
	for _, c := range []raft.Changed{begin, learn, joint} {
		right(h.Changed(1, c))
	}
	if h.Out(1, 3) || h.Out(1, 4) || h.Out(1, 9) || h.Out(2, 3) {
		t.Error("somebody is out too early")
	}
	right(h.Changed(1, end))
	if !h.Out(1, 3) || h.Out(1, 4) {
		t.Error("node 3 is out, node 4 is not")
	}
}
