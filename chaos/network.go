package chaos

import (
	"os/exec"
	"time"

	"github.com/quarryfs/quarry/rpc"
)

// Network is where the processes of a cluster meet, and how they are cut apart. [Proxies] needs
// no rights beyond those of any user; a test that may make network namespaces brings another
// one, and schedules, workloads and checks are the same. Safe for use by many goroutines.
type Network interface {
	// Add makes room for a node. It returns the address at which the node's process is to
	// listen, and the one that others are told.
	Add(node string) (listen, advertise string, err error)
	// Command returns the command that runs a program as the process of a node.
	Command(node, program string, args ...string) *exec.Cmd
	// Client returns the network as a client in this process sees it that is a node of its own.
	Client(node string) (rpc.Network, error)
	// Set has what one node sends to another go through a link like this, from now on and on
	// connections that stand, too. The zero Link does nothing.
	Set(from, to string, link Link) error
	// Reset breaks every connection between two nodes, as a router that forgets them does.
	Reset(a, b string) error
	// Heal ends all that Set has begun. What was held back arrives.
	Heal() error
	// Close ends all connections.
	Close() error
}

// Link is what happens on the way from one node to another. The other way is a link of its own.
type Link struct {
	// Block holds everything back: nothing is lost and nobody is told, as in TCP without a
	// route, which sends again once there is one.
	Block bool
	// Delay is how long everything takes, and Jitter the most that is added to it at random.
	// Bytes keep their order.
	Delay, Jitter time.Duration
	// BytesPerSecond bounds the throughput of each connection; 0: no bound.
	BytesPerSecond int64
	// Loss is the part of the packets that are lost, 0 to 1. A network that carries no packets
	// refuses it.
	Loss float64
}

// pair is a direction between two nodes.
type pair struct{ from, to string }
