package main

import "testing"

func TestSlotsOfText(t *testing.T) {
	for text, want := range map[string]string{
		"0-1023": "0-1023", "5,17,100-200": "5,17,100-200", "7, 6,5": "5-7", "4095": "4095", "1-3,2-9": "1-9",
		"": "", "-": "", "3-": "", "9-3": "", "4096": "", "0-99999": "", "a": "", "1,,2": "", "-1": "",
	} {
		set, err := parseSlots(text)
		if want == "" {
			if err == nil {
				t.Errorf("%q is %v", text, set)
			}
			continue
		}
		if got := slotsText(set); err != nil || got != want {
			t.Errorf("%q is %q, %v, want %q", text, got, err, want)
		}
	}
	if slotsText(nil) != "none" {
		t.Error("no slots")
	}
}
