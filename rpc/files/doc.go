// Package files reads from files that are known by their descriptors.
package files
