// Package cluster puts the parts of Quarry together: it starts a master ([StartMaster]) or a
// chunk server ([StartChunkServer]) on a folder and an address, as the processes of the
// command line are, makes a cluster of masters that wait for one ([Init]), and runs a whole
// cluster in one process on one folder ([StartDev]), as "quarry dev" does. Package clustertest
// gives one to other people's tests.
//
// Without a cluster key everything must listen on loopback addresses: a cluster that can be
// reached from elsewhere is one that anybody could read and write.
package cluster
