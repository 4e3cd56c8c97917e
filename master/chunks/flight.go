package chunks

import (
	"context"
	"sync"

	"github.com/quarryfs/quarry"
)

// flights are jobs of which at most one runs for each key: who wants the same waits for the
// one that is under way. A job runs to its end, or to that of the leadership, whoever has
// given up waiting. Safe for use by many goroutines.
type flights[K comparable, V any] struct {
	l   *Leader
	max int

	mu   sync.Mutex
	jobs map[K]*flight[V]
}

// flight is one job; value and err are set when done is closed.
type flight[V any] struct {
	done  chan struct{}
	value V
	err   error
}

func (f *flights[K, V]) init(l *Leader, max int) {
	f.l, f.max, f.jobs = l, max, map[K]*flight[V]{}
}

// start returns the job of a key, which it begins if it is not under way; fresh says so.
// Busy if too many are; Unavailable when the leadership is over.
func (f *flights[K, V]) start(key K, job func(ctx context.Context) (V, error)) (j *flight[V], fresh bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if j := f.jobs[key]; j != nil {
		return j, false, nil
	}
	if len(f.jobs) >= f.max {
		return nil, false, quarry.Errorf("start", quarry.Busy, "", "%d such jobs are under way", len(f.jobs))
	}
	j = &flight[V]{done: make(chan struct{})}
	ok := f.l.spawn(func(ctx context.Context) {
		j.value, j.err = job(ctx)
		f.mu.Lock()
		delete(f.jobs, key)
		f.mu.Unlock()
		close(j.done)
	})
	if !ok {
		return nil, false, over()
	}
	f.jobs[key] = j
	return j, true, nil
}

// wait returns the job's outcome, or the error of ctx.
func (j *flight[V]) wait(ctx context.Context) (V, error) {
	select {
	case <-j.done:
		return j.value, j.err
	case <-ctx.Done():
		var none V
		return none, ctx.Err()
	}
}

// find returns the job of a key that is under way, or nil.
func (f *flights[K, V]) find(key K) *flight[V] {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.jobs[key]
}

// under reports whether a job of the key is under way.
func (f *flights[K, V]) under(key K) bool { return f.find(key) != nil }

// count returns how many jobs are under way.
func (f *flights[K, V]) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.jobs)
}

// over is the error of a leader that leads no more.
func over() error {
	return quarry.Errorf("lead", quarry.NotLeader, "", "the leadership has ended")
}
