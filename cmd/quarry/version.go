package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/quarryfs/quarry/cluster"
	"github.com/quarryfs/quarry/rpc"
)

func versionCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the release",
		Long:  "Shows the release, the commit that it was built from, and the versions of the protocol that it speaks.",
		Args:  args(0, 0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			commit := ""
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						commit = s.Value
					}
				}
			}
			if o.json {
				return printJSON(os.Stdout, map[string]any{
					"release": cluster.Release, "commit": commit, "go": runtime.Version(), "protocol_min": rpc.VersionMin, "protocol_max": rpc.VersionMax,
				})
			}
			fmt.Printf("quarry %s (%s, %s, protocol %d to %d)\n", cluster.Release, commit, runtime.Version(), rpc.VersionMin, rpc.VersionMax)
			return nil
		},
	}
}
