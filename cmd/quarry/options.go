package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/cluster"
	"github.com/quarryfs/quarry/rpc"
	"github.com/quarryfs/quarry/rpc/secure"
	"github.com/quarryfs/quarry/transfer"
)

const defaultMasters = "127.0.0.1:7400"

// options are what all commands share.
type options struct {
	masters string
	keyFile string
	tls     secure.Files
	verbose bool
	json    bool
	timeout time.Duration // 0: each kind of wait has its own

	settings settings
}

func (o *options) register(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&o.masters, "masters", o.settings.or("masters", defaultMasters), "addresses of masters, host:port,… (QUARRY_MASTERS)")
	f.StringVar(&o.keyFile, "key-file", o.settings.or("key-file", ""), "file with the cluster key; without one all is on loopback (QUARRY_KEY_FILE)")
	f.StringVar(&o.tls.Certificate, "tls-cert", o.settings.or("tls-cert", ""), "file with this process's certificate: all connections are under TLS (QUARRY_TLS_CERT)")
	f.StringVar(&o.tls.Key, "tls-key", o.settings.or("tls-key", ""), "file with the certificate's private key (QUARRY_TLS_KEY)")
	f.StringVar(&o.tls.Authority, "tls-ca", o.settings.or("tls-ca", ""), "file with the certificates of the cluster's authority (QUARRY_TLS_CA)")
	f.DurationVar(&o.timeout, "timeout", o.settings.timeout(), "how long servers may leave a command without an answer, such as 30s (QUARRY_TIMEOUT) (default: 1m, and 10s where nobody listens)")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "say more of what goes on, on standard error")
	f.BoolVar(&o.json, "json", false, "print JSON, one object a line")
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

// network is how this process reaches others.
func (o *options) network() (rpc.Network, error) {
	if o.tls.IsZero() {
		return rpc.TCP, nil
	}
	return secure.Network(rpc.TCP, o.tls)
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
	network, err := o.network()
	if err != nil {
		return nil, err
	}
	return client.Open(ctx, addresses, client.Options{Key: key, Log: o.logger(), Network: network, Patience: o.timeout})
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

// withPaths is with for a command whose paths may be patterns: it passes on what they mean.
func (o *options) withPaths(c *cobra.Command, patterns []string, do func(ctx context.Context, fs *client.FS, paths []string) error) error {
	return o.with(c, func(ctx context.Context, fs *client.FS) error {
		paths, err := transfer.Expand(ctx, transfer.Quarry{FS: fs}, patterns)
		if err != nil {
			return err
		}
		return do(ctx, fs, paths)
	})
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
	return cluster.Common{Listen: listen, Advertise: advertise, Key: key, TLS: o.tls, Logger: o.serverLogger(), Clock: serverClock(), Folder: serverFolder}, err
}

// localError is the error of a local file.
func localError(op, name string, err error) error { return transfer.LocalError(op, name, err) }

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
