package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/cluster"
)

const defaultMasters = "127.0.0.1:7400"

// options are what all commands share.
type options struct {
	masters string
	keyFile string
	verbose bool
	json    bool
}

func (o *options) register(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&o.masters, "masters", env("QUARRY_MASTERS", defaultMasters), "addresses of masters, host:port,… (QUARRY_MASTERS)")
	f.StringVar(&o.keyFile, "key-file", env("QUARRY_KEY_FILE", ""), "file with the cluster key; without one all is on loopback (QUARRY_KEY_FILE)")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "say more of what goes on, on standard error")
	f.BoolVar(&o.json, "json", false, "print JSON, one object a line")
}

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// addresses returns the masters' addresses.
func (o *options) addresses() ([]string, error) {
	var out []string
	for a := range strings.SplitSeq(o.masters, ",") {
		if a = strings.TrimSpace(a); a != "" {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return nil, usageError{fmt.Errorf("no master is named; give --masters host:port,… or set QUARRY_MASTERS")}
	}
	return out, nil
}

// open connects to the cluster.
func (o *options) open(ctx context.Context) (*client.FS, error) {
	addresses, err := o.addresses()
	if err != nil {
		return nil, err
	}
	key, err := cluster.ReadKey(o.keyFile)
	if err != nil {
		return nil, err
	}
	return client.Open(ctx, addresses, client.Options{Key: key, Log: o.logger()})
}

// with opens the cluster for one command.
func (o *options) with(c *cobra.Command, do func(ctx context.Context, fs *client.FS) error) error {
	fs, err := o.open(c.Context())
	if err != nil {
		return err
	}
	defer fs.Close()
	return do(c.Context(), fs)
}

// logger writes what goes wrong on the way, and with -v also what goes on.
func (o *options) logger() *slog.Logger {
	level := slog.LevelError
	if o.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

// serverLogger is the logger of a server.
func (o *options) serverLogger() *slog.Logger {
	level := slog.LevelInfo
	if o.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

// common is what servers are told.
func (o *options) common(listen, advertise string) (cluster.Common, error) {
	key, err := cluster.ReadKey(o.keyFile)
	return cluster.Common{Listen: listen, Advertise: advertise, Key: key, Logger: o.serverLogger(), Clock: serverClock()}, err
}

// printJSON prints one object on a line.
func printJSON(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }

// onTerminal reports whether a file is a terminal.
func onTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// bytesText shows a number of bytes to people.
func bytesText(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n), -1
	for v >= 1024 && unit < 5 {
		v /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTPE"[unit])
}
