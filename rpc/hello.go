package rpc

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// The versions of the protocol that this release speaks. A connection uses the highest one
// that both sides speak, so a cluster can be upgraded one process at a time.
const (
	VersionMin = 1
	VersionMax = 1
)

// keepAliveMax bounds the interval of signs of life, that of this side and that which the other
// one tells: nobody is to wait for longer.
const keepAliveMax = 10 * time.Second

// helloBodyMax bounds every body of the handshake, when the other side may be anybody.
const helloBodyMax = 1 << 10

// Role says what a process is.
type Role uint8

// The roles of processes.
const (
	RoleClient      Role = 1
	RoleMaster      Role = 2
	RoleChunkServer Role = 3
)

func (r Role) String() string {
	return [...]string{"unknown", "client", "master", "chunk server"}[min(r, 4)%4]
}

// Identity is what a process says of itself when a connection begins.
type Identity struct {
	Cluster     quarry.ClusterID // zero: belongs to none yet, or does not mind which
	Role        Role
	Node        quarry.NodeID      // of a master
	Server      quarry.ServerID    // of a chunk server
	Incarnation quarry.Incarnation // of a chunk server
	Disk        quarry.DiskID      // of a master: a node that lost its disk is another node
	Release     string             // of the software, for people
	Socket      string             // of a chunk server: the name at which processes on its machine reach it, see Beside; "": none
}

// Peer is who is at the other end of a connection.
type Peer struct {
	Identity
	Address string // of the connection's other end
	Version uint8  // of the protocol
	Proven  bool   // it has shown that it knows the cluster's key
	Local   bool   // it is on this machine, and descriptors can be passed to it

	conn      *localConn    // if Local, and the peer is a client
	keepAlive time.Duration // the interval in which it sends signs of life and wants to see some; 0: not told
	rests     bool          // both sides send fewer while nobody waits
}

type peerKey struct{}

// PeerFrom returns who sent the request that ctx belongs to.
func PeerFrom(ctx context.Context) (Peer, bool) {
	p, ok := ctx.Value(peerKey{}).(*Peer)
	if !ok {
		return Peer{}, false
	}
	return *p, true
}

// The handshake. Its frames have version 0; their layout never changes but by more fields.
//
//	client                          server
//	hello: identity, versions, lane,
//	       nonce                ->
//	                            <-  hello: identity, the version chosen, nonce, and
//	                                proof = HMAC("server", both hellos) if there is a key
//	proof = HMAC("client", both hellos) ->
//	                            <-  welcome, or an error at any point
//
// HMAC is HMAC-SHA256 with the cluster's key over the label, the body of the client's hello,
// the body of the server's without the proof, and, on a socket within a machine, its name. So each side shows that it knows the key,
// nothing that was shown can be used again, and nobody on the way can change what was said.
// What follows the handshake is not protected by the key: that takes TLS.
type hello struct {
	VersionMin, VersionMax uint8 // of a server: both are the version chosen
	Identity               Identity
	Lane                   Lane
	Nonce                  [32]byte
	Keyed                  bool   // the sender has a key
	KeepAliveMS            uint32 // the interval of the sender's signs of life; 0: that of the receiver
	Rests                  bool   // the sender knows that there are fewer while nobody waits
}

type proof struct{ MAC []byte }

func helloFields(w *wire.Walk, m *hello) {
	wire.Uint(w, 1, &m.VersionMin)
	wire.Uint(w, 2, &m.VersionMax)
	wire.Message(w, 3, &m.Identity, identityFields)
	wire.Uint(w, 4, &m.Lane)
	nonce := m.Nonce[:]
	wire.Bytes(w, 5, &nonce, len(m.Nonce))
	if w.Reading() && copy(m.Nonce[:], nonce) != len(m.Nonce) {
		w.Fail("the nonce has %d bytes instead of %d", len(nonce), len(m.Nonce))
	}
	wire.Bool(w, 6, &m.Keyed)
	wire.Uint(w, 7, &m.KeepAliveMS)
	wire.Bool(w, 8, &m.Rests)
}

func identityFields(w *wire.Walk, m *Identity) {
	wire.Fixed16(w, 1, &m.Cluster)
	wire.Uint(w, 2, &m.Role)
	wire.Uint(w, 3, &m.Node)
	wire.Uint(w, 4, &m.Server)
	wire.Uint(w, 5, &m.Incarnation)
	wire.Fixed16(w, 6, &m.Disk)
	wire.String(w, 7, &m.Release, 64)
	wire.String(w, 8, &m.Socket, 64)
}

func proofFields(w *wire.Walk, m *proof) { wire.Bytes(w, 1, &m.MAC, sha256.Size) }

// party is one side of a handshake.
type party struct {
	identity Identity
	key      []byte // nil: none is needed
	check    func(Peer) error
	// keepAlive is the interval of this side's signs of life; 0: it is not told.
	keepAlive time.Duration
	rests     bool // signs of life may be rarer while nobody waits
}

// interval returns how often the sender of a hello gives a sign of life.
func (m *hello) interval() time.Duration {
	return min(time.Duration(m.KeepAliveMS)*time.Millisecond, keepAliveMax)
}

// greet is the client's part of the handshake.
func (p *party) greet(conn Conn, r *frameReader, lane Lane) (*Peer, error) {
	mine := hello{VersionMin: VersionMin, VersionMax: VersionMax, Identity: p.identity, Lane: lane, Keyed: len(p.key) > 0, KeepAliveMS: uint32(p.keepAlive.Milliseconds()), Rests: p.rests}
	rand.Read(mine.Nonce[:])
	said, err := p.say(conn, &mine, nil)
	if err != nil {
		return nil, err
	}
	theirs, heard, mac, err := hear(r)
	if err != nil {
		return nil, err
	}
	if theirs.VersionMin != theirs.VersionMax || theirs.VersionMax < VersionMin || theirs.VersionMax > VersionMax {
		return nil, quarry.Errorf("hello", quarry.Unsupported, "", "the server chose protocol version %d, this release speaks %d to %d",
			theirs.VersionMax, VersionMin, VersionMax)
	}
	peer := &Peer{Identity: theirs.Identity, Address: conn.RemoteAddress(), Version: theirs.VersionMax, Local: asLocal(conn) != nil, keepAlive: theirs.interval(), rests: p.rests && theirs.Rests}
	if err := p.checkCluster(peer); err != nil {
		return nil, err
	}
	var answer proof
	if len(p.key) > 0 {
		if !hmac.Equal(mac, p.mac("server", said, heard, place(conn))) {
			return nil, quarry.Errorf("hello", quarry.Permission, peer.Address, "the server does not know the cluster's key")
		}
		answer.MAC = p.mac("client", said, heard, place(conn))
		peer.Proven = true
	} else if theirs.Keyed {
		return nil, quarry.Errorf("hello", quarry.Permission, peer.Address, "the cluster has a key, and this process was not given it")
	}
	if p.check != nil {
		if err := p.check(*peer); err != nil {
			return nil, err
		}
	}
	b, err := appendFrame(nil, head{kind: kindProof}, &answer, proofFields)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(b); err != nil {
		return nil, err
	}
	_, err = take(r, kindWelcome)
	return peer, err
}

// receive is the server's part of the handshake. An error has not been sent yet.
func (p *party) receive(conn Conn, r *frameReader) (*Peer, Lane, error) {
	theirs, heard, _, err := hear(r)
	if err != nil {
		return nil, 0, err
	}
	version := min(theirs.VersionMax, VersionMax)
	if version < theirs.VersionMin || version < VersionMin {
		return nil, 0, quarry.Errorf("hello", quarry.Unsupported, "", "the client speaks protocol versions %d to %d, this server %d to %d",
			theirs.VersionMin, theirs.VersionMax, VersionMin, VersionMax)
	}
	if theirs.Lane > laneMax {
		return nil, 0, quarry.Errorf("hello", quarry.Invalid, "", "there is no lane %d", theirs.Lane)
	}
	peer := &Peer{Identity: theirs.Identity, Address: conn.RemoteAddress(), Version: version, Local: asLocal(conn) != nil, conn: asLocal(conn), keepAlive: theirs.interval(), rests: p.rests && theirs.Rests}
	if err := p.checkCluster(peer); err != nil {
		return nil, 0, err
	}
	if keyed := len(p.key) > 0; keyed && !theirs.Keyed {
		return nil, 0, quarry.Errorf("hello", quarry.Permission, "", "the cluster has a key, and the client was not given it")
	}
	mine := hello{VersionMin: version, VersionMax: version, Identity: p.identity, Lane: theirs.Lane, Keyed: len(p.key) > 0, KeepAliveMS: uint32(p.keepAlive.Milliseconds()), Rests: p.rests}
	rand.Read(mine.Nonce[:])
	said, err := p.say(conn, &mine, heard)
	if err != nil {
		return nil, 0, err
	}
	body, err := take(r, kindProof)
	if err != nil {
		return nil, 0, err
	}
	var answer proof
	if err := wire.Unmarshal(body, &answer, proofFields); err != nil {
		return nil, 0, err
	}
	if len(p.key) > 0 {
		if !hmac.Equal(answer.MAC, p.mac("client", heard, said, place(conn))) {
			return nil, 0, quarry.Errorf("hello", quarry.Permission, "", "the client does not know the cluster's key")
		}
		peer.Proven = true
	}
	if p.check != nil {
		if err := p.check(*peer); err != nil {
			return nil, 0, err
		}
	}
	_, err = conn.Write(appendRaw(nil, head{kind: kindWelcome}, nil))
	return peer, theirs.Lane, err
}

// say sends a hello and returns its body without the proof, which is added if this is the
// server's answer to the client's hello heard and there is a key.
func (p *party) say(conn Conn, m *hello, heard []byte) ([]byte, error) {
	said := wire.Marshal(nil, m, helloFields)
	var mac []byte
	if heard != nil && len(p.key) > 0 {
		mac = p.mac("server", heard, said, place(conn))
	}
	h := head{kind: kindHello, payload: uint32(len(mac))}
	_, err := conn.Write(append(appendRaw(nil, h, said), mac...))
	return said, err
}

// hear takes a hello, and its body and proof.
func hear(r *frameReader) (m hello, heard, mac []byte, err error) {
	var h head
	if heard, err = takeHead(r, kindHello, &h); err != nil {
		return m, nil, nil, err
	}
	heard = append([]byte{}, heard...)
	if h.payload > sha256.Size {
		return m, nil, nil, fmt.Errorf("a proof has %d bytes", h.payload)
	}
	mac = make([]byte, h.payload)
	if err = r.payload(mac, 0); err != nil {
		return m, nil, nil, err
	}
	err = wire.Unmarshal(heard, &m, helloFields)
	return m, heard, mac, err
}

// take takes a frame of the handshake without payload and returns its body.
func take(r *frameReader, want frameKind) ([]byte, error) {
	var h head
	body, err := takeHead(r, want, &h)
	if err == nil && h.payload > 0 {
		err = fmt.Errorf("a frame of the handshake has a payload of %d bytes", h.payload)
	}
	return body, err
}

func takeHead(r *frameReader, want frameKind, h *head) ([]byte, error) {
	if err := r.head(h); err != nil {
		if err == io.EOF {
			err = fmt.Errorf("the other side closed the connection in the handshake")
		}
		return nil, err
	}
	if h.version != 0 || h.kind != want && h.kind != kindError {
		return nil, fmt.Errorf("a frame of kind %d and version %d came in the handshake", h.kind, h.version)
	}
	limit := helloBodyMax
	if h.kind == kindError {
		limit = errorBodyMax
	}
	if int64(h.body) > int64(limit) {
		return nil, fmt.Errorf("a frame of the handshake has a body of %d bytes, at most %d are allowed", h.body, limit)
	}
	body, err := r.body(h)
	if err != nil || h.kind == want {
		return body, err
	}
	return nil, decodeError(body)
}

// checkCluster refuses a peer of another cluster.
func (p *party) checkCluster(peer *Peer) error {
	if mine, theirs := p.identity.Cluster, peer.Cluster; mine != theirs && !mine.IsZero() && !theirs.IsZero() {
		return quarry.Errorf("hello", quarry.WrongCluster, "", "this %s belongs to cluster %s, the %s at %s to cluster %s",
			p.identity.Role, mine, peer.Role, peer.Address, theirs)
	}
	return nil
}

// mac proves the knowledge of the key for one handshake at a place.
func (p *party) mac(label string, client, server []byte, place string) []byte {
	m := hmac.New(sha256.New, p.key)
	var lengths [8]byte
	lengths[0], lengths[1] = byte(len(client)), byte(len(client)>>8)
	lengths[4], lengths[5] = byte(len(server)), byte(len(server)>>8)
	io.WriteString(m, "quarry "+label+" 1")
	m.Write(lengths[:])
	m.Write(client)
	m.Write(server)
	io.WriteString(m, place)
	return m.Sum(nil)
}
