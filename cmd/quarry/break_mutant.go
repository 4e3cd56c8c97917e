//go:build mutant

package main

import (
	"os"
	"strings"

	"github.com/quarryfs/quarry/protocol"
)

// In test builds the variable QUARRY_BREAK names rules of the protocol that do not hold in this
// process, with commas between, as package protocol names them: so that a selftest can be seen
// to find out.
func init() {
	for rule := range strings.SplitSeq(os.Getenv("QUARRY_BREAK"), ",") {
		if rule = strings.TrimSpace(rule); rule != "" {
			protocol.Off = append(protocol.Off, protocol.Rule(rule))
		}
	}
}
