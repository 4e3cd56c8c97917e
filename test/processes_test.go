package test

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/rpc"
)

// program is the built binary.
var program string

func TestMain(m *testing.M) {
	if program = os.Getenv(inNamespace); program != "" {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "quarry-test-*")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "quarry")
	build := exec.Command("go", "build", "-o", program, "github.com/quarryfs/quarry/cmd/quarry")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "the binary cannot be built:", err)
		os.Exit(1)
	}
	flag.Parse()
	if !slices.ContainsFunc(os.Args, func(arg string) bool { return strings.HasPrefix(arg, "-test.parallel") }) {
		if err := flag.Set("test.parallel", strconv.Itoa(atATime)); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// atATime is how many tests run at a time if -parallel does not say it, however many processors
// there are: tests wait for leases and elections more than they compute, and three of them keep two
// processors half busy.
const atATime = 3

// mutant returns the binary of a test build, in which rules can be switched off and clocks jump.
var mutant = sync.OnceValues(func() (string, error) {
	name := filepath.Join(filepath.Dir(program), "quarry-mutant")
	if out, err := exec.Command("go", "build", "-tags", "mutant", "-o", name, "github.com/quarryfs/quarry/cmd/quarry").CombinedOutput(); err != nil {
		return "", fmt.Errorf("the test build: %w\n%s", err, out)
	}
	return name, nil
})

// long reports whether there is time for more.
func long() bool { return os.Getenv("QUARRY_LONG") != "" }

// process is one process of the binary.
type process struct {
	t       testing.TB
	name    string
	program string
	args    []string
	address string
	log     string
	cmd     *exec.Cmd
}

// start starts the process, with its output behind that of the runs before.
func (p *process) start() {
	p.t.Helper()
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		p.t.Fatal(err)
	}
	defer out.Close()
	p.cmd = exec.Command(cmp.Or(p.program, program), p.args...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
}

// kill ends the process at once, as a power failure would end it but for the page cache.
func (p *process) kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	p.cmd = nil
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// ends waits until the process has ended by itself and returns its output.
func (p *process) ends(within time.Duration) string {
	p.t.Helper()
	done := make(chan error, 1)
	go func() { done <- p.cmd.Wait() }()
	select {
	case err := <-done:
		if err == nil {
			p.t.Errorf("%s ended without an error", p.name)
		}
	case <-time.After(within):
		p.t.Errorf("%s goes on, it should have ended", p.name)
		_ = p.cmd.Process.Kill()
		<-done
	}
	p.cmd = nil
	b, err := os.ReadFile(p.log)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(b)
}

// system is a cluster of processes.
type system struct {
	t       testing.TB
	dir     string
	program string
	masters []*process
	servers []*process
	conns   *rpc.Client
	fs      *client.FS
	ctx     context.Context
}

// options of a system; the zero value is three masters and four chunk servers.
type options struct {
	masters, servers int
	dir              string // of everything; default: one of its own
	program          string // of the servers, if it is not the usual one
	masterArgs       []string
	serverArgs       []string
}

// newSystem starts a cluster and returns when all of it is there.
func newSystem(t testing.TB, o options) *system {
	t.Helper()
	if o.masters == 0 {
		o.masters = 3
	}
	if o.servers == 0 {
		o.servers = 4
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	if o.dir == "" {
		o.dir = t.TempDir()
	}
	s := &system{t: t, dir: o.dir, program: o.program, ctx: ctx}
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			s.showLogs()
		}
		for _, p := range append(s.masters, s.servers...) {
			p.kill()
		}
	})
	for i := range o.masters {
		address := freeAddress(t)
		s.masters = append(s.masters, s.process(fmt.Sprintf("master-%d", i+1), address,
			append([]string{"master", "--dir", filepath.Join(s.dir, fmt.Sprintf("m%d", i+1)), "--listen", address}, o.masterArgs...)))
	}
	if out, code := s.run("", "admin", "init", "--wait", "60s"); code != 0 {
		t.Fatalf("admin init: %s", out)
	}
	for i := range o.servers {
		s.addServer(i+1, o.serverArgs...)
	}
	s.conns = newConns()
	var err error
	if s.fs, err = client.Open(ctx, s.addresses(), client.Options{Patience: 2 * time.Minute}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.fs.Close()
		s.conns.Close()
	})
	s.healthy()
	return s
}

// newConns returns connections for what no command tells.
func newConns() *rpc.Client {
	return rpc.NewClient(rpc.ClientConfig{
		Network: rpc.TCP, Clock: clock.System(), Identity: func() rpc.Identity { return rpc.Identity{Role: rpc.RoleClient} },
	})
}

func (s *system) addServer(n int, more ...string) *process {
	address := freeAddress(s.t)
	args := []string{"chunkserver", "--masters", strings.Join(s.addresses(), ","), "--dir", filepath.Join(s.dir, fmt.Sprintf("s%d", n)),
		"--listen", address, "--rack", fmt.Sprintf("rack-%d", n)}
	p := s.process(fmt.Sprintf("server-%d", n), address, append(args, more...))
	s.servers = append(s.servers, p)
	return p
}

// process starts a process of the system.
func (s *system) process(name, address string, args []string) *process {
	p := &process{t: s.t, name: name, program: s.program, args: args, address: address, log: filepath.Join(s.dir, name+".log")}
	p.start()
	return p
}

func (s *system) addresses() (out []string) {
	for _, m := range s.masters {
		out = append(out, m.address)
	}
	return out
}

// run runs a command of the binary against the system.
func (s *system) run(stdin string, args ...string) (output string, code int) {
	s.t.Helper()
	return runBinary(s.t, strings.Join(s.addresses(), ","), stdin, args...)
}

// command returns a command of the binary that is not started yet.
func (s *system) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(s.ctx, program, args...)
	cmd.Env = append(os.Environ(), "QUARRY_MASTERS="+strings.Join(s.addresses(), ","))
	return cmd
}

func runBinary(t testing.TB, masters, stdin string, args ...string) (output string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "QUARRY_MASTERS="+masters)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("quarry %v: %v", args, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// healthy waits until nothing is missing.
func (s *system) healthy() {
	s.t.Helper()
	var out string
	s.eventually("a healthy cluster", 90*time.Second, func() bool {
		var code int
		out, code = s.run("", "admin", "status")
		return code == 0 && strings.Count(out, "alive") >= len(s.masters)+len(s.servers)
	}, func() string { return out })
}

// eventually waits until something is so.
func (s *system) eventually(what string, within time.Duration, so func() bool, state ...func() string) {
	s.t.Helper()
	deadline := time.Now().Add(within)
	for !so() {
		if time.Now().After(deadline) {
			said := ""
			for _, f := range state {
				said += "\n" + f()
			}
			s.t.Fatalf("waited %v in vain for %s%s", within, what, said)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// leader returns the process that leads the first shard.
func (s *system) leader() *process {
	s.t.Helper()
	var found *process
	s.eventually("a leader", 60*time.Second, func() bool {
		for _, m := range s.masters {
			if m.cmd == nil {
				continue
			}
			ctx, cancel := context.WithTimeout(s.ctx, 2*time.Second)
			st, err := s.conns.Master(m.address).Status(ctx)
			cancel()
			if err != nil {
				continue
			}
			for _, sh := range st.Shards {
				if sh.Shard == 1 && sh.Leader == st.Node {
					found = m
					return true
				}
			}
		}
		return false
	})
	return found
}

// tail returns the processes of the members of a file's open chunk, the primary first; none
// if the file has no open chunk at this moment.
func (s *system) tail(path string) (members []*process) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, 30*time.Second)
	defer cancel()
	m := s.conns.Master(s.leader().address)
	found, err := m.Lookup(ctx, &quarry.LookupRequest{From: quarry.RootInode, Path: strings.TrimPrefix(path, "/")})
	if err != nil {
		return nil
	}
	st, err := m.Stat(ctx, &quarry.StatRequest{Inode: found.Attr.Inode})
	if err != nil || st.Tail == nil || st.Tail.State != quarry.ChunkOpen {
		return nil
	}
	for _, member := range st.Tail.Members {
		if p := s.server(member.Address); p != nil {
			members = append(members, p)
		}
	}
	return members
}

// server returns the chunk server at an address.
func (s *system) server(address string) *process {
	for _, p := range s.servers {
		if p.address == address {
			return p
		}
	}
	return nil
}

// sealed returns a file's chunks, all of which must be sealed but for an open tail, which is
// left out, with their places in the file.
func (s *system) sealed(path string) (chunks []quarry.Chunk, offsets []int64) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, 30*time.Second)
	defer cancel()
	m := s.conns.Master(s.leader().address)
	found, err := m.Lookup(ctx, &quarry.LookupRequest{From: quarry.RootInode, Path: strings.TrimPrefix(path, "/")})
	if err != nil {
		s.t.Fatal(err)
	}
	reply, err := m.Locate(ctx, &quarry.LocateRequest{File: found.Attr.Inode, Max: quarry.PiecesMax})
	if err != nil || reply.More {
		s.t.Fatalf("locate: more %v, %v", reply != nil && reply.More, err)
	}
	for _, piece := range reply.Pieces {
		for _, c := range reply.Chunks {
			if c.Handle == piece.Handle && c.State == quarry.ChunkSealed {
				chunks, offsets = append(chunks, c), append(offsets, piece.Offset)
			}
		}
	}
	return chunks, offsets
}

// showLogs prints the ends of the processes' logs.
func (s *system) showLogs() {
	for _, p := range append(s.masters, s.servers...) {
		b, err := os.ReadFile(p.log)
		if err != nil {
			continue
		}
		s.t.Logf("--- %s\n%s", p.name, b[max(0, len(b)-3000):])
	}
}

// taken keeps tests from getting the same free address twice.
var taken sync.Map

func freeAddress(t testing.TB) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(freePorts(t, 1)))
}

// freePorts returns the first of n free ports in a row. They are below those that the kernel
// gives to outgoing connections, of which one could take a server's port while it is down.
func freePorts(t testing.TB, n int) int {
	t.Helper()
	for range 1000 {
		first := 12000 + rand.IntN(20000)
		if free(first, n) {
			return first
		}
	}
	t.Fatal("no free ports")
	return 0
}

func free(first, n int) bool {
	for port := first; port < first+n; port++ {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			return false
		}
		l.Close()
		if _, again := taken.LoadOrStore(port, true); again {
			return false
		}
	}
	return true
}
