package main

import (
	"github.com/spf13/cobra"
)

func benchCommand(o *options) *cobra.Command {
	return &cobra.Command{Use: "bench", Short: "Measure"}
}
