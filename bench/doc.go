// Package bench is the reference benchmark: it measures a Quarry cluster and, in the same
// run and interleaved with it, small bare programs that do the least that the same work
// could cost on the same machine. What counts is the ratio; an absolute figure is a remark.
//
// The bare programs are frozen: they are the yardstick, so they do not change when Quarry
// gets faster. They are a framed copy over TCP ([framedCopy]), pread of a local file
// ([localReads]), one process that writes three local copies with Quarry's sync policy
// ([localCopies]), and the same cluster with a batch of one record.
//
// The table [Verbs] names what can be measured. Most verbs are a load: what each client does to
// an embedded cluster in a run, measured at every point between the lists of clients, chunk
// servers and record sizes, all of them again in each run. The others measure in their own way.
//
// A run has a scene, the cluster where a load works; clients are goroutines of this process, or of a
// [team] of workers, which are this program once more ([Work]). What they did is a [tally]; figures are made
// of the tallies of all runs, and a [Report] of them is drawn on a page.
package bench
