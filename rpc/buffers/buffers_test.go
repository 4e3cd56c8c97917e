package buffers

import (
	"sync"
	"testing"
	"testing/synctest"
)

func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &Budget{Total: 10}
		stop := make(chan struct{})
		if n, ok := b.Acquire(25, stop); n != 10 || !ok {
			t.Fatalf("took %d, %v; want all there is", n, ok)
		}
		var order []int64
		var mu sync.Mutex
		var waiters sync.WaitGroup
		for _, n := range []int64{8, 3, 2} { // 3 would fit beside nothing before 8 has had its turn
			waiters.Go(func() {
				if n, ok := b.Acquire(n, stop); ok {
					mu.Lock()
					order = append(order, n)
					mu.Unlock()
				}
			})
			synctest.Wait()
		}
		b.Release(5)
		waiters.Go(func() { // this would fit now
			if n, ok := b.Acquire(4, stop); ok {
				b.Release(n)
			}
		})
		synctest.Wait()
		if len(order) != 0 || len(b.waiting) != 4 {
			t.Errorf("%v went before the first, %d are waiting", order, len(b.waiting))
		}
		b.Release(5)
		synctest.Wait()
		if len(order) != 1 || order[0] != 8 {
			t.Errorf("%v were served, want the first", order)
		}
		b.Release(8)
		waiters.Wait()
		if b.used != 5 {
			t.Errorf("%d are used, want 5", b.used)
		}
		gone, canceled := make(chan struct{}), make(chan bool)
		go func() {
			_, ok := b.Acquire(10, gone)
			canceled <- ok
		}()
		synctest.Wait()
		behind := make(chan bool)
		go func() {
			_, ok := b.Acquire(5, stop)
			behind <- ok
		}()
		synctest.Wait()
		close(gone)
		if <-canceled {
			t.Error("whoever stops waiting takes all the same")
		}
		if !<-behind || b.used != 10 {
			t.Errorf("whoever was behind waits on; %d are used", b.used)
		}
		close(stop)
	})
}
