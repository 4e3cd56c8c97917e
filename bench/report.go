package bench

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/quarryfs/quarry/chaos"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/cluster"
)

// Report is everything that one command has measured, and what one has to know to measure it again.
type Report struct {
	Command  string    `json:"command"`
	Release  string    `json:"release"` // with the commit, where it is known
	Machine  string    `json:"machine"` // never its name
	Load     string    `json:"load"`    // of the machine when it began and when it ended, if known
	Began    time.Time `json:"began"`
	Duration float64   `json:"duration_s"`
	Verbs    []string  `json:"verbs"`
	Results  []Result  `json:"results"`
	instant  clock.Instant
}

// NewReport begins a report on what command is going to measure in a folder.
func NewReport(command, dir string) *Report {
	c := clock.System()
	return &Report{Command: command, Release: release(), Machine: machine(dir), Load: loadAverage(), Began: c.Wall(), instant: c.Now()}
}

// Add notes what one verb has come to.
func (r *Report) Add(verb string, results []Result) {
	r.Verbs, r.Results = append(r.Verbs, verb), append(r.Results, results...)
}

// End notes that nothing more is measured.
func (r *Report) End() {
	r.Duration = clock.System().Now().Sub(r.instant).Seconds()
	if load := loadAverage(); load != "" {
		r.Load += " to " + load
	}
}

// release tells which program this is.
func release() string {
	s := cluster.Release
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return s
	}
	settings := map[string]string{}
	for _, x := range info.Settings {
		settings[x.Key] = x.Value
	}
	if commit := settings["vcs.revision"]; len(commit) >= 12 {
		s += ", commit " + commit[:12]
		if settings["vcs.modified"] == "true" {
			s += " with changes"
		}
	}
	return s
}

// machine tells what this machine is, as far as it can be known without rights.
func machine(dir string) string {
	parts := []string{fmt.Sprintf("%d processors", runtime.NumCPU())}
	if model := valueOf("/proc/cpuinfo", "model name"); model != "" {
		parts[0] += " (" + model + ")"
	}
	if kib, err := strconv.ParseInt(strings.TrimSuffix(valueOf("/proc/meminfo", "MemTotal"), " kB"), 10, 64); err == nil {
		parts = append(parts, fmt.Sprintf("%.0f GiB of memory", float64(kib)/(1<<20)))
	}
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) == nil {
		name, ok := map[int64]string{unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.TMPFS_MAGIC: "tmpfs: not a disk",
			unix.OVERLAYFS_SUPER_MAGIC: "overlayfs", unix.NFS_SUPER_MAGIC: "nfs"}[int64(fs.Type)]
		if !ok {
			name = fmt.Sprintf("file system %#x", fs.Type)
		}
		parts = append(parts, name)
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		parts = append(parts, unix.ByteSliceToString(u.Sysname[:])+" "+unix.ByteSliceToString(u.Release[:]))
	}
	return strings.Join(append(parts, runtime.Version()), ", ")
}

// valueOf returns the value of the first line "name: value" of a file, or "".
func valueOf(file, name string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for l := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// loadAverage is that of the last minute, or "".
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	load, _, _ := strings.Cut(string(text), " ")
	return load
}

// amount shows a number with three digits that count.
func amount(v float64) string {
	if v >= 999.5 {
		return chaos.Thousands(int(v + 0.5))
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// bytesText shows a number of bytes in the largest unit in which it is whole.
func bytesText(n int) string {
	for _, u := range []struct {
		size int
		name string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if n >= u.size && n%u.size == 0 {
			return fmt.Sprintf("%d %s", n/u.size, u.name)
		}
	}
	return fmt.Sprintf("%s B", chaos.Thousands(n))
}
