package test

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/quarryfs/quarry/chaos"
	"github.com/quarryfs/quarry/rpc"
)

// namespaces is a chaos.Network of network namespaces: each process has its own, with an
// address and a cable to a bridge that stands in the namespace of this process, where the
// clients are. Everything goes through the kernel's own TCP: what is cut is lost, and sent
// again when the sender thinks it is time.
//
//	cut     nftables, at the receiver's door, or at the sender's if the receiver is a client
//	loss    the same, by a random number for each packet
//	rate    a token bucket (tc tbf) on the cable to the receiver, so of all that it gets; a
//	        client has no cable of its own, there it is on the sender's, so of all that it sends
//	resets  ss --kill
//	delay   refused: it needs netem, which many kernels do not have; chaos.Proxies delays
//
// It must be used in a process that has a network namespace and a mount namespace of its own,
// see inNamespace. The kernel removes everything with them.
type namespaces struct {
	mu    sync.Mutex
	nodes map[string]*nsNode
	links map[[2]string]chaos.Link // from, to
	hit   int                      // packets that were dropped, or had to wait for a token
}

// nsNode is a node, numbered from 1.
type nsNode struct {
	name   string
	number int
	client bool           // it is an address in the bridge's namespace
	faulty bool           // there are faults at its door
	rates  map[bool]int64 // bytes a second of its cable's ends; true: of what it gets
}

var _ chaos.Network = (*namespaces)(nil)

const bridge = "br0"

func (n *nsNode) host() string  { return fmt.Sprintf("10.77.0.%d", n.number+1) }
func (n *nsNode) cable() string { return fmt.Sprintf("cable%d", n.number) }

// command runs a program of the system. The error has what it said.
func command(input, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// ip runs some ip commands, one a line.
func ip(lines ...string) error {
	for _, line := range lines {
		if err := command("", "ip", strings.Fields(line)...); err != nil {
			return err
		}
	}
	return nil
}

// newNamespaces prepares this process's namespaces and makes the bridge.
func newNamespaces() (*namespaces, error) {
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		return nil, err
	}
	err := unix.Mount("netns", "/run/netns", "tmpfs", 0, "")
	if err == nil {
		err = command("", "nft", "add", "table", "inet", "faults") // whether the kernel has it
	}
	if err == nil {
		err = ip("link set lo up", "link add "+bridge+" type bridge forward_delay 0", "addr add 10.77.0.1/16 dev "+bridge, "link set "+bridge+" up")
	}
	return &namespaces{nodes: map[string]*nsNode{}, links: map[[2]string]chaos.Link{}}, err
}

func (s *namespaces) add(name string, client bool) (*nsNode, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nodes[name] != nil || len(s.nodes) > 200 {
		return nil, fmt.Errorf("there is a node %s already, or there are too many", name)
	}
	n := &nsNode{name: name, number: len(s.nodes) + 1, client: client, rates: map[bool]int64{}}
	s.nodes[name] = n
	return n, nil
}

// Add implements chaos.Network.
func (s *namespaces) Add(name string) (listen, advertise string, err error) {
	n, err := s.add(name, false)
	if err != nil {
		return "", "", err
	}
	address := net.JoinHostPort(n.host(), "7400")
	return address, address, ip(
		"netns add "+name,
		"link add "+n.cable()+" type veth peer name eth0 netns "+name,
		"link set "+n.cable()+" master "+bridge+" up",
		"-n "+name+" addr add "+n.host()+"/16 dev eth0",
		"-n "+name+" link set lo up",
		"-n "+name+" link set eth0 up",
	)
}

// Client implements chaos.Network.
func (s *namespaces) Client(name string) (rpc.Network, error) {
	n, err := s.add(name, true)
	if err != nil {
		return nil, err
	}
	return rpc.TCPFrom(n.host()), ip("addr add " + n.host() + "/16 dev " + bridge)
}

// Command implements chaos.Network. The process takes the place of ip.
func (s *namespaces) Command(node, program string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", node, program}, args...)...)
}

// Set implements chaos.Network.
func (s *namespaces) Set(from, to string, link chaos.Link) error {
	return s.setAll([][2]string{{from, to}}, link)
}

// setAll sets some links, each from its first node to its second, all at once.
func (s *namespaces) setAll(links [][2]string, link chaos.Link) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if link.Delay != 0 || link.Jitter != 0 {
		return errors.New("a delay needs netem")
	}
	doors := map[*nsNode]bool{}
	for _, l := range links {
		a, b := s.nodes[l[0]], s.nodes[l[1]]
		if a == nil || b == nil || a.client && b.client {
			return fmt.Errorf("there is no link from %s to %s", l[0], l[1])
		}
		if b.client {
			b = a
		}
		doors[b] = true
		if link == (chaos.Link{}) {
			delete(s.links, l)
		} else {
			s.links[l] = link
		}
	}
	return s.applyAll(maps.Keys(doors))
}

func (s *namespaces) applyAll(nodes iter.Seq[*nsNode]) error {
	var err error
	for n := range nodes {
		err = errors.Join(err, s.apply(n))
	}
	return err
}

// counters are what nft and tc tell of the packets that a fault has met.
var counters = regexp.MustCompile(`counter packets (\d+)|overlimits (\d+)`)

// count adds up what has met the faults at the door of a node, before they change.
func (s *namespaces) count(n *nsNode) {
	var told []byte
	for _, args := range [][]string{
		{"ip", "netns", "exec", n.name, "nft", "list", "ruleset"}, {"tc", "-s", "qdisc", "show", "dev", n.cable()}, {"tc", "-netns", n.name, "-s", "qdisc", "show", "dev", "eth0"},
	} {
		out, _ := exec.Command(args[0], args[1:]...).Output() // nothing to count is fine
		told = append(told, out...)
	}
	for _, m := range counters.FindAllSubmatch(told, -1) {
		packets, _ := strconv.Atoi(string(m[1]) + string(m[2])) // the expression has digits only
		s.hit += packets
	}
}

// hits returns how many packets have met faults that are over.
func (s *namespaces) hits() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hit
}

// apply makes what is set at the door of a node true.
func (s *namespaces) apply(n *nsNode) error {
	if n.faulty {
		s.count(n)
	}
	n.faulty = false
	rules := "table inet faults {}\nflush table inet faults\ntable inet faults {\n chain in { type filter hook input priority 0; }\n chain out { type filter hook output priority 0; }\n}\n"
	rates := map[bool]int64{} // by whether it is what the node gets
	for pair, link := range s.links {
		from, to := s.nodes[pair[0]], s.nodes[pair[1]]
		var match string
		gets := false
		switch {
		case to == n:
			match, gets = "in ip saddr "+from.host(), true
		case from == n && to.client:
			match = "out ip daddr " + to.host()
		default:
			continue
		}
		n.faulty = true
		if link.Block {
			rules += "add rule inet faults " + match + " counter drop\n"
		}
		if link.Loss > 0 {
			rules += fmt.Sprintf("add rule inet faults %s numgen random mod 1000 < %d counter drop\n", match, int(link.Loss*1000))
		}
		if link.BytesPerSecond > 0 && (rates[gets] == 0 || link.BytesPerSecond < rates[gets]) {
			rates[gets] = link.BytesPerSecond
		}
	}
	err := command(rules, "ip", "netns", "exec", n.name, "nft", "-f", "-")
	for gets, cable := range map[bool][]string{true: {"tc", "qdisc", "%", "dev", n.cable(), "root"}, false: {"tc", "-netns", n.name, "qdisc", "%", "dev", "eth0", "root"}} {
		if rates[gets] != n.rates[gets] {
			err = errors.Join(err, throttle(rates[gets], cable))
			n.rates[gets] = rates[gets]
		}
	}
	return err
}

// throttle gives an end of a cable a token bucket, or takes it away.
func throttle(bytesPerSecond int64, cable []string) error {
	verb, bucket := "del", []string{}
	if bytesPerSecond > 0 {
		verb, bucket = "replace", []string{"tbf", "rate", fmt.Sprintf("%dbps", bytesPerSecond), "burst", "32kb", "latency", "200ms"}
	}
	args := append(slices.Clone(cable[1:]), bucket...)
	args[slices.Index(args, "%")] = verb
	return command("", cable[0], args...)
}

// Reset implements chaos.Network.
func (s *namespaces) Reset(a, b string) error {
	s.mu.Lock()
	near, far := s.nodes[a], s.nodes[b]
	s.mu.Unlock()
	if near == nil || far == nil {
		return fmt.Errorf("there is no link between %s and %s", a, b)
	}
	var err error
	for _, end := range [][2]*nsNode{{near, far}, {far, near}} {
		if end[0].client {
			err = errors.Join(err, command("", "ss", "--no-header", "--kill", "src", end[0].host(), "dst", end[1].host()))
		} else {
			err = errors.Join(err, command("", "ip", "netns", "exec", end[0].name, "ss", "--no-header", "--kill", "dst", end[1].host()))
		}
	}
	return err
}

// Heal implements chaos.Network.
func (s *namespaces) Heal() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.links)
	return s.applyAll(func(yield func(*nsNode) bool) {
		for _, n := range s.nodes {
			if !n.client && !yield(n) {
				return
			}
		}
	})
}

// Close implements chaos.Network. The namespaces end with the process.
func (s *namespaces) Close() error { return nil }
