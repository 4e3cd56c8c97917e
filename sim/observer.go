package sim

import "github.com/quarryfs/quarry"

// observer stands between the network and every server.
type observer struct {
	w   *World
	log *Log
}

func newObserver(w *World, log *Log) *observer { return &observer{w: w, log: log} }

func (o *observer) master(p *process) func(quarry.Master) quarry.Master {
	return func(m quarry.Master) quarry.Master { return m }
}

func (o *observer) server(p *process) func(quarry.ChunkServer) quarry.ChunkServer {
	return func(s quarry.ChunkServer) quarry.ChunkServer { return s }
}

// alone reports whether a chunk may have its only replica at a host.
func (o *observer) alone(h *Host) bool { return false }
