package raft

import (
	"context"
	"fmt"
	"log/slog"
)

// raftLogger passes on what Raft says. Raft tells of each step of each election; that is for
// those who look for it.
type raftLogger struct{ log *slog.Logger }

func (l *raftLogger) put(level slog.Level, format string, args []any) {
	if l.log.Enabled(context.Background(), level) {
		l.log.Log(context.Background(), level, "raft: "+fmt.Sprintf(format, args...))
	}
}

func (l *raftLogger) Debug(v ...any)                 { l.put(slog.LevelDebug, "%s", []any{fmt.Sprint(v...)}) }
func (l *raftLogger) Debugf(format string, v ...any) { l.put(slog.LevelDebug, format, v) }

func (l *raftLogger) Info(v ...any)                 { l.put(slog.LevelDebug, "%s", []any{fmt.Sprint(v...)}) }
func (l *raftLogger) Infof(format string, v ...any) { l.put(slog.LevelDebug, format, v) }

func (l *raftLogger) Warning(v ...any)                 { l.put(slog.LevelInfo, "%s", []any{fmt.Sprint(v...)}) }
func (l *raftLogger) Warningf(format string, v ...any) { l.put(slog.LevelInfo, format, v) }

func (l *raftLogger) Error(v ...any)                 { l.put(slog.LevelError, "%s", []any{fmt.Sprint(v...)}) }
func (l *raftLogger) Errorf(format string, v ...any) { l.put(slog.LevelError, format, v) }

// Fatal and Panic are for broken invariants; the worker makes them the end of the host.
func (l *raftLogger) Fatal(v ...any)                 { panic(fmt.Sprint(v...)) }
func (l *raftLogger) Fatalf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }
func (l *raftLogger) Panic(v ...any)                 { panic(fmt.Sprint(v...)) }
func (l *raftLogger) Panicf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }
