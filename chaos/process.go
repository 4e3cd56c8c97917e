package chaos

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// Role is what a node of a cluster is.
type Role string

// The roles of nodes.
const (
	RoleMaster Role = "master"
	RoleServer Role = "server"
	RoleClient Role = "client"
)

const (
	// stopTime is how long a process that is told to stop may take before it is killed.
	stopTime = 15 * time.Second
	// logTail is how much of a process's log is shown.
	logTail = 4 << 10
)

// Process is one process of a cluster: started, killed, frozen and started again. Safe for
// use by many goroutines.
type Process struct {
	Name    string // of the node
	Role    Role
	Address string // that others are told
	Dir     string // its folder

	clk     clock.Clock
	command func(args []string) *exec.Cmd
	args    []string
	log     string
	died    func(*Process, string) // told when it ends without having been told to

	mu     sync.Mutex
	cmd    *exec.Cmd
	ended  chan struct{} // closed when cmd has ended
	wanted bool          // it is meant to run
	frozen bool
}

// Start starts the process, with more arguments behind its own. It does nothing to one that
// runs.
func (p *Process) Start(more ...string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		return nil
	}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return quarry.Errorf("start", quarry.Internal, p.Name, "its log cannot be written: %w", err)
	}
	defer out.Close()
	cmd := p.command(append(p.args, more...))
	cmd.Stdout, cmd.Stderr = out, out
	// The process does not outlive this one, and an interrupt from the terminal is ours alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return quarry.Errorf("start", quarry.Internal, p.Name, "%w", err)
	}
	ended := make(chan struct{})
	p.cmd, p.ended, p.wanted, p.frozen = cmd, ended, true, false
	go p.wait(cmd, ended)
	return nil
}

// wait notes the end of a process.
func (p *Process) wait(cmd *exec.Cmd, ended chan struct{}) {
	err := cmd.Wait()
	p.mu.Lock()
	surprise := p.wanted
	p.cmd, p.wanted, p.frozen = nil, false, false
	p.mu.Unlock()
	close(ended)
	if surprise && p.died != nil {
		if err == nil {
			err = fmt.Errorf("without an error")
		}
		p.died(p, fmt.Sprintf("it ended by itself: %v", err))
	}
}

// Kill ends the process at once with SIGKILL, as a power failure would but for the page cache.
// It returns when the process is gone.
func (p *Process) Kill() {
	p.mu.Lock()
	p.wanted = false
	cmd, ended := p.cmd, p.ended
	p.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Kill() // it may have ended
	<-ended
}

// stop has the process stop as an operator would, with SIGTERM, and returns when it is gone. One
// that does not stop in time is killed, and the error says so.
func (p *Process) stop() error {
	p.mu.Lock()
	p.wanted = false
	cmd, ended := p.cmd, p.ended
	p.mu.Unlock()
	if cmd == nil {
		return nil
	}
	_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	late := p.clk.NewTimer(stopTime)
	defer late.Stop()
	select {
	case <-ended:
		return nil
	case <-late.C():
	}
	p.Kill()
	return quarry.Errorf("stop", quarry.Internal, p.Name, "it did not stop within %v and was killed", stopTime)
}

// freeze has the process stand still until thaw; it does nothing to one that is gone.
func (p *Process) freeze() { p.signal(syscall.SIGSTOP, true) }

// thaw has a frozen process go on.
func (p *Process) thaw() { p.signal(syscall.SIGCONT, false) }

func (p *Process) signal(s syscall.Signal, frozen bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return
	}
	if p.cmd.Process.Signal(s) == nil {
		p.frozen = frozen
	}
}

// Running reports whether the process runs and is not frozen.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd != nil && !p.frozen
}

// PID returns the system's number of the process; 0 if it does not run.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Log returns the end of what the process has written.
func (p *Process) Log() string {
	f, err := os.Open(p.log)
	if err != nil {
		return ""
	}
	defer f.Close()
	if _, err := f.Seek(-logTail, io.SeekEnd); err != nil {
		_, _ = f.Seek(0, io.SeekStart) // it is shorter
	}
	b, _ := io.ReadAll(io.LimitReader(f, logTail)) // what can be read is shown
	if i := bytes.IndexByte(b, '\n'); len(b) == logTail && i >= 0 {
		b = b[i+1:]
	}
	return string(b)
}
