//go:build mutant

package model

import (
	"slices"

	"github.com/quarryfs/quarry/protocol"
)

func off(r protocol.Rule) bool { return slices.Contains(protocol.Off, r) }
