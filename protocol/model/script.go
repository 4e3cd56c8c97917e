package model

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/quarryfs/quarry/protocol"
)

// A script is a schedule as text, one act a line, each followed by what it caused: packets
// sent, records settled, reads finished. Servers are s1 to s4, z is the zombie, clients c1
// to c3, chunks their handles. "try" before an act allows it to be impossible, which is how
// a script asks for what only happens without a rule.
//
//	start c1              tail c1          resend c1     doubt c1 1     learn c1 1 s2
//	deliver Append -> s1  keep Append      lose Append   (the first packet that begins so)
//	sync s1 1 [n]         commit s1 1      preps s1 1    heartbeat s1   tick 0|1|2
//	crash s1 [n] [proven] wipe s1          fail s1       zombie s1      rollback s1 n [promise]
//	seal fences decide seals roll s1 reopen s1 reopens creates activate logged abandon
//	failover              barrier kept     barrier cut   garbage s1 2   gone s1
//	copy 1 s1 s2          forget s1 1 c1   read          read-cached    read-retry
func (w *world) script(line string) (v string, err error) {
	words := strings.Fields(line)
	if len(words) == 0 {
		return "", fmt.Errorf("an empty line")
	}
	a, err := w.parse(words)
	if err != nil {
		return "", err
	}
	if !w.possible(a) {
		return "", fmt.Errorf("not possible here: %s", line)
	}
	return w.step(a), nil
}

// possible reports whether an act can be done at all.
func (w *world) possible(a act) bool {
	switch a.K {
	case aSync:
		p := w.at(a.A)
		return p != nil && len(p.disk[a.B].queue) > 0 && int(a.C) <= len(p.disk[a.B].queue)
	case aCommit, aPreps:
		p := w.at(a.A)
		return p != nil && p.members[a.B] != nil && p.members[a.B].Primary() != nil
	case aReopen:
		return w.mayReopen()
	case aDecide:
		return w.decision().Verdict != protocol.Waiting
	case aGone:
		return w.m.sealer != nil
	case aTail:
		return w.clients[a.A].need != nil
	case aForget:
		return w.servers[a.A].members[a.B] != nil
	case aBarrier:
		return w.m.barrier
	case aLogged, aAbandon:
		_, last := w.m.last()
		return last.state == logging || last.state == creating && a.K == aAbandon
	}
	return true
}

// parse finds the act that a line names.
func (w *world) parse(words []string) (a act, err error) {
	kind := -1
	for k, n := range actName {
		if n == words[0] {
			kind = k
		}
	}
	if kind < 0 {
		return a, fmt.Errorf("no act is called %q", words[0])
	}
	a.K = uint8(kind)
	if a.K <= aLose {
		i := w.find(strings.Join(words[1:], " "))
		if i < 0 {
			return a, fmt.Errorf("no packet begins with %q", strings.Join(words[1:], " "))
		}
		a.A = uint8(i)
		return a, nil
	}
	var nums [3]uint8
	for i, word := range words[1:] {
		if i >= len(nums) {
			return a, fmt.Errorf("too many words: %v", words)
		}
		if nums[i], err = number(word); err != nil {
			return a, err
		}
	}
	a.A, a.B, a.C = nums[0], nums[1], nums[2]
	switch a.K { // chunks are named by their handle
	case aSync, aCommit, aPreps, aForget, aGarbage, aDoubt, aLearn:
		a.B--
	case aCopy:
		a.A--
	case aTail: // by the handle the client cannot write to
		a.B = 0
	}
	return a, nil
}

// number reads "s2", "c1", "z", or a number or word that stands for one.
func number(word string) (uint8, error) {
	switch word {
	case "z":
		return maxServers, nil
	case "proven", "promise", "cut":
		return 1, nil
	case "kept":
		return 0, nil
	}
	less := 0
	if word[0] == 's' || word[0] == 'c' {
		word, less = word[1:], 1
	}
	n, err := strconv.Atoi(word)
	if err != nil || n < less || n > 100 {
		return 0, fmt.Errorf("%q is no server, client, chunk or number", word)
	}
	return uint8(n - less), nil
}
