package sim

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
)

// logLines is how many of the last lines are kept.
const logLines = 400

// Log takes what hosts and faults tell, counts it, and keeps the last lines for the report
// of a failure.
type Log struct {
	w   *World
	out io.Writer // gets every line; nil: nobody does

	mu     sync.Mutex
	lines  []string // a ring
	next   int
	counts map[string]int64
}

// NewLog returns an empty log.
func NewLog(w *World, out io.Writer) *Log {
	return &Log{w: w, out: out, counts: map[string]int64{}}
}

// Printf adds a line.
func (l *Log) Printf(format string, args ...any) {
	line := fmt.Sprintf("%12.6f %s", l.w.Now().Sub(l.w.start).Seconds(), fmt.Sprintf(format, args...))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.out != nil {
		fmt.Fprintln(l.out, line)
	}
	if len(l.lines) < logLines {
		l.lines = append(l.lines, line)
		return
	}
	l.lines[l.next] = line
	l.next = (l.next + 1) % logLines
}

// Detail adds a line that only somebody who reads the whole log wants.
func (l *Log) Detail(format string, args ...any) {
	if l.out != nil {
		l.Printf(format, args...)
	}
}

// Count counts that something rare has happened.
func (l *Log) Count(what string) { l.Add(what, 1) }

// Add counts that something has happened n times.
func (l *Log) Add(what string, n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[what] += n
}

// Last returns the last lines.
func (l *Log) Last() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append(append([]string(nil), l.lines[l.next:]...), l.lines[:l.next]...)
}

// handler returns what a host logs with.
func (l *Log) handler(h *Host) slog.Handler { return &logHandler{log: l, host: h} }

type logHandler struct {
	log  *Log
	host *Host
	with []slog.Attr
}

func (h *logHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo || h.log.out != nil
}

func (h *logHandler) WithGroup(string) slog.Handler { return h }

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logHandler{h.log, h.host, append(append([]slog.Attr(nil), h.with...), attrs...)}
}

func (h *logHandler) Handle(_ context.Context, r slog.Record) error {
	if r.Level >= slog.LevelInfo {
		h.log.Count("log: " + r.Message)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-4s %s %s", h.host.name, r.Level, r.Message)
	for _, a := range h.with {
		fmt.Fprintf(&b, " %v", a)
	}
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %v", a)
		return true
	})
	h.log.Printf("%s", b.String())
	return nil
}
