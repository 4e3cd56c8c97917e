package chaos_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/quarryfs/quarry/chaos"
)

// TestPlan: the faults of a seed are always the same, end in time, and are never more than two
// at once; faults that spoil bytes are alone. Each kind comes up.
func TestPlan(t *testing.T) {
	count := map[chaos.Kind]int{}
	alone := map[chaos.Kind]bool{chaos.Rot: true, chaos.Wipe: true, chaos.Full: true, chaos.Power: true}
	for seed := range uint64(300) {
		for _, d := range []time.Duration{15 * time.Second, time.Minute} {
			plan := chaos.Plan(seed, d, chaos.Kinds())
			if !reflect.DeepEqual(plan, chaos.Plan(seed, d, chaos.Kinds())) {
				t.Fatalf("seed %d has two plans", seed)
			}
			if least := int(d / (6 * time.Second)); len(plan) < least {
				t.Errorf("seed %d has %d faults in %v", seed, len(plan), d)
			}
			for i, e := range plan {
				count[e.Kind]++
				if e.At < 0 || e.For <= 0 || e.At+e.For > d || i > 0 && e.At < plan[i-1].At {
					t.Fatalf("seed %d, %v: fault %d is %+v", seed, d, i, e)
				}
				beside := 0
				for _, o := range plan[:i] {
					if o.At+o.For > e.At {
						beside++
						if alone[e.Kind] || alone[o.Kind] {
							t.Fatalf("seed %d: %+v goes on beside %+v", seed, o, e)
						}
					}
				}
				if beside > 1 {
					t.Fatalf("seed %d: %d faults go on when %+v begins", seed, beside, e)
				}
			}
		}
	}
	for _, k := range chaos.Kinds() {
		if count[k] < 300 {
			t.Errorf("%s comes up %d times in 600 plans", k, count[k])
		}
	}
	if plan := chaos.Plan(1, time.Minute, nil); plan != nil {
		t.Errorf("without kinds there is a plan: %v", plan)
	}
}

func TestParseKinds(t *testing.T) {
	for in, want := range map[string]int{"all": len(chaos.Kinds()), "none": 0, "": 0, "kill": 1, "kill, rot ,wipe": 3} {
		if got, err := chaos.ParseKinds(in); err != nil || len(got) != want {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	if got, err := chaos.ParseKinds("kill,earthquake"); err == nil {
		t.Errorf("an earthquake is %v", got)
	}
}
