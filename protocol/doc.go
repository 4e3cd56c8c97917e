// Package protocol is the chunk protocol as pure step machines. The chunk server, the master
// and the client run these machines, and so do the tests: package model drives them through
// any order, loss and duplication of messages, through crashes, lost disks, failovers and
// ends of leases.
//
// A machine does no input or output, reads no clock, starts no goroutine, draws no random
// number and decides nothing by the order of a map. Each method is one event: it changes the
// machine and returns what is to be done about it, as [Effect] values, or, for events that
// only look, the answer. Time comes in as an [Instant]. Bytes of data never come in, only
// their lengths; that they match their checksums is checked before.
//
// The text that the machines follow is docs/protocol.md; the numbers below are its sections.
//
// # The machines
//
//	at a chunk server   Member      one replica of a chunk (sections 6 to 9, 11.3)
//	                    Primary     its role when it orders the appends (7)
//	                    HeldLease   what it holds of a shard (5)
//	at a master         Sealer      one attempt to find the length at which a version ends (8.2 to 8.4)
//	                    SealRound   telling the replicas (8.6)
//	                    Leases      what a leader has granted (5)
//	at a client         Appender    one session's records on their way into one file (9)
//
// [Replica] is what a disk knows of a replica; a row of [Change] values, which is a journal,
// makes one.
//
// # The walks
//
// Append. [Appender.Add] gives a record its sequence and sends it to the primary.
// [Member.Append] looks it up, gives it its offset, and sooner or later puts it into a batch:
// a [Persist] for the primary's own disk and a [Ship] to the members behind. [Member.Prepare]
// at each of them persists the same batch; when its disk says so ([Member.Durable]) it
// answers with its durable length, which comes back as [Member.Acknowledged]. The least
// durable length of all members is the commit: now the append is answered, and
// [Appender.Answered] settles it.
//
// Seal. A member is silent, or the chunk full. The master logs SEALING, makes a [Sealer] and
// fences the members. [Member.Fence] promises the sealed version, ends the role, and answers,
// when the promise is durable, with what is durable ([Member.Fencing]: while its disk does not
// answer, that the role is over). [Sealer.Replied] collects,
// [Sealer.Decide] finds the length, which the master logs and only then tells:
// [Member.Seal] cuts.
//
// Re-open. The tail of a file is sealed and has room, and replicas are known to hold the seal.
// The master logs the next writable version with them as its members, and
// [Member.Reopen] makes each of them one; when all have answered, [Member.Activate] goes on as
// for a new chunk. A client whose records are on their way sends them to the new version: its
// primary knows all that the versions before have left ([Appender.Tail]).
//
// Fate. A client that waits for answers from the ended version asks for the next chunk
// ([NeedTail]) and for the fate of what it has no answer for ([AskChunk], [AskFate]).
// [Member.Fate] at a sealed replica tells; [Appender.Fates] settles what is committed, and
// sends what is absent to the next chunk, in order.
//
// # States and events of a member
//
// A member is none (no replica), open (in its version, secondary), primary, ended (a higher
// version is promised, or the server was started anew), sealed (durably complete at
// SealVersion, and not opened again) or lost. "-" is a refusal that changes nothing.
//
//	event        none       open            primary           ended         sealed         lost
//	CREATE       open       open (again)    primary (again)   -             -              -
//	ACTIVATE     -          primary (1)     primary (again)   -             -              -
//	APPEND       -          -               taken, or old     -             -              -
//	PREP         -          next batch (2)  -                 -             -              -
//	ACK          ignored    ignored         commit            ignored       ignored        ignored
//	COMMIT       -          commit          commit is its own -             -              -
//	FENCE, grant missing    ended           ended             ended         sealed         lost
//	SEAL         -          sealed (3)      sealed (3)        sealed (3)    sealed (4)     -
//	COPY         sealed     sealed (5)      sealed (5)        sealed (5)    if newer       sealed (6)
//	REOPEN       -          open (again)    primary (again)   -             open (8)       -
//	ADD          -          -               -                 -             serves         -
//	DROP         none       none (7)        none (7)          none (7)      none (7)       none (7)
//	FATE         -          -               -                 -             exact seal     -
//	READ         -          to commit       to commit         to commit     to sealLen     -
//	END          -          -               commit            -             -              -
//	disk failed  lost       lost            lost              lost          lost           lost
//	disk refused none       ended           ended             ended         sealed         as its disk says
//	restart      none       ended           ended             ended         sealed         as its disk says
//
//	(1) only if promised == log version == version, and the role of it was never taken
//	(2) without a gap; one that is here is answered again
//	(3) if the bytes are of the version, reach the length, and a record ends there; else it
//	    answers that it does not hold the seal, stays ended, and is copied anew
//	(4) the same seal is answered again; a later one as in (3)
//	(5) of a version not below the promised one
//	(6) on another disk
//	(7) unless more is promised than the order names
//	(8) only if it is complete at the seal just before the version
//
// All requests but those that only look name the incarnation they are for; another one
// refuses them. Requests of a version below the promised one are refused. An answer that
// speaks of something durable is given when it is durable: in [Member.Durable].
//
// # Invariants
//
//	I1  promised and version never fall; one writable version of a chunk at a time
//	I2  acknowledged: durable at every member of its version
//	I3  commit <= durable length of every member
//	I4  two replicas agree on what either may show, for ever
//	I5  the sealed length is not below any acknowledged end, commit or base
//	I6  the length of a sealed version never changes
//	I7  (session, sequence) is committed at most once in a file, at the offset acknowledged
//	I8  a fate "absent" is never followed by a commit at or below that seal
//	I9  no two primaries of one file say at one instant, unasked, where it ends
//	I10 the grantor of a lease waits longer than its holder uses it
//	I12 a file's length never falls
//	I13 a handle is used once
//	I14 a read returns what was true at some instant of it
//
// I11 and the rest of I13 are about overwriting, which is not offered.
//
// # Rules and mutants
//
// Each [Rule] can be switched off under the build tag "mutant", and a test then has to
// notice; see the README of package model. In normal builds off is a constant false.
package protocol
