package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/quarryfs/quarry/transfer"
)

// settings are the defaults of flags that a site or a user may set, by name.
type settings map[string]string

// settingNames are the flags that have a setting, each with the variable that goes before the file.
var settingNames = map[string]string{
	"masters": "QUARRY_MASTERS", "key-file": "QUARRY_KEY_FILE", "parallel": "QUARRY_PARALLEL", "limit": "QUARRY_LIMIT", "timeout": "QUARRY_TIMEOUT",
	"tls-cert": "QUARRY_TLS_CERT", "tls-key": "QUARRY_TLS_KEY", "tls-ca": "QUARRY_TLS_CA",
}

// configBytesMax is the most that a config file has.
const configBytesMax = 64 << 10

// loadSettings reads the config file, if there is one, and the environment, which goes before it.
func loadSettings() (settings, error) {
	s := settings{}
	name, named := os.LookupEnv("QUARRY_CONFIG")
	if !named || name == "" {
		dir, err := os.UserConfigDir()
		if err != nil {
			return s.environment()
		}
		name, named = filepath.Join(dir, "quarry", "config"), false
	}
	f, err := os.Open(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !named:
		return s.environment()
	case err != nil:
		return s, fmt.Errorf("the config file cannot be read: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, configBytesMax+1))
	switch {
	case err != nil:
		return s, fmt.Errorf("the config file cannot be read: %w", err)
	case len(text) > configBytesMax:
		return s, fmt.Errorf("the config file %s has more than %d bytes", name, configBytesMax)
	}
	if err := s.parse(name, string(text)); err != nil {
		return s, err
	}
	return s.environment()
}

// parse reads a config file: lines name = value, empty ones, and ones that begin with "#".
func (s settings) parse(file, text string) error {
	number := 0
	for line := range strings.SplitSeq(text, "\n") {
		number++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if _, known := settingNames[name]; !ok || !known {
			return fmt.Errorf("%s, line %d: a setting is written name = value, and the names are %s", file, number, strings.Join(sortedNames(), ", "))
		}
		if err := checkSetting(name, value); err != nil {
			return fmt.Errorf("%s, line %d: %w", file, number, err)
		}
		s[name] = value
	}
	return nil
}

// environment has the variables go before the file.
func (s settings) environment() (settings, error) {
	for name, variable := range settingNames {
		if v := os.Getenv(variable); v != "" {
			if err := checkSetting(name, v); err != nil {
				return s, fmt.Errorf("%s: %w", variable, err)
			}
			s[name] = v
		}
	}
	return s, nil
}

func sortedNames() (names []string) {
	for name := range settingNames {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// checkSetting checks what a flag would check.
func checkSetting(name, value string) error {
	switch name {
	case "parallel":
		if n, err := strconv.Atoi(value); err != nil || n < 1 || n > transfer.ParallelMax {
			return fmt.Errorf("parallel can be 1 to %d, not %q", transfer.ParallelMax, value)
		}
	case "timeout":
		if d, err := time.ParseDuration(value); err != nil || d <= 0 {
			return fmt.Errorf("timeout: %q is no time; write 500ms, 30s or 5m", value)
		}
	case "limit":
		if _, err := parseBytes(value); err != nil {
			return fmt.Errorf("limit: %w", err)
		}
	}
	return nil
}

// or returns a setting, or what it is otherwise.
func (s settings) or(name, otherwise string) string {
	if v := s[name]; v != "" {
		return v
	}
	return otherwise
}

// timeout returns how long servers may leave a command without an answer; 0: nothing was said.
func (s settings) timeout() time.Duration {
	d, _ := time.ParseDuration(s["timeout"]) // it was checked
	return d
}

// parallel returns how many files are moved at a time.
func (s settings) parallel() int {
	n, err := strconv.Atoi(s["parallel"])
	if err != nil {
		return transfer.ParallelDefault
	}
	return n
}
