package mqtt

import (
	"bufio"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// writeChunk is how much is given to the socket at once. Each chunk has
	// the write time-out to itself, so that a slow line is not taken for a
	// dead one.
	writeChunk = 16 << 10
	// closeGrace is how long Close waits for what is still to be written.
	closeGrace = 250 * time.Millisecond
	// lastWords is how long, after a failed write, the other side may still
	// be heard: a TLS alert says why it hung up.
	lastWords = 200 * time.Millisecond
)

// bufferedConn stands between paho and the network connection, for five
// faults of paho 1.5:
//
//   - Publish hands each message to a goroutine that writes it, and waits.
//     When the peer stops reading, that goroutine hangs in Write and all of
//     Publish with it. Here Write never blocks: it fills a buffer that a
//     goroutine of our own empties. The in-flight window bounds it.
//   - When the connection ends while Publish hands over, Publish hangs for
//     its whole time-out. So the end is told to ended first, which stops the
//     publishing, and to paho afterwards, by Read alone: Write never fails.
//     A broker that no longer answers is noticed here as well.
//   - It says nothing of a connection that was closed on our side; see above.
//   - At QoS 0 it does not know what the broker has got. A ping that is put
//     into the stream tells: see barrier.
//   - It reads an acknowledgement of 4 bytes in 3 system calls and writes
//     each packet in one of its own. Reading is buffered here, and packets
//     that come in quick succession are written together.
type bufferedConn struct {
	net.Conn
	connOptions
	reader *bufio.Reader
	frames frames // what is read

	closeOnce sync.Once
	done      chan struct{} // closed by Close and Abort
	flushed   chan struct{} // closed when the writing goroutine has ended
	wake      chan struct{} // holds a token when there is something to write

	mu       sync.Mutex
	signedOn bool // from then on silence counts
	pending  []byte
	writing  bool          // a chunk is on its way
	pings    uint64        // PINGREQs that were written, paho's own included
	idle     chan struct{} // made by Close, closed when all is written
	failure  error         // of the first write that failed
}

// connOptions say how a bufferedConn is used.
type connOptions struct {
	hangUp       func()         // ends the connection at once, below TLS
	ended        func(error)    // is called before Read returns an error
	writeTimeout time.Duration  // of one chunk
	silence      time.Duration  // without a byte from the broker, at most
	wrote        *atomic.Uint64 // counts bytes given to the network, headers of MQTT included
	ponged       func()         // is called for every PINGRESP
}

// newBufferedConn takes over conn.
func newBufferedConn(conn net.Conn, o connOptions) *bufferedConn {
	c := &bufferedConn{
		Conn:        conn,
		connOptions: o,
		reader:      bufio.NewReaderSize(conn, 4<<10),
		done:        make(chan struct{}),
		flushed:     make(chan struct{}),
		wake:        make(chan struct{}, 1),
	}
	go c.flush()
	return c
}

// Read reads from the network. After a failed write its error is that one,
// unless the other side had something to say.
func (c *bufferedConn) Read(p []byte) (int, error) {
	if c.reader.Buffered() == 0 {
		c.listen()
	}
	n, err := c.reader.Read(p)
	for range c.frames.pongs(p[:n]) {
		c.ponged()
	}
	if err == nil {
		return n, nil
	}
	c.mu.Lock()
	if isTimeout(err) {
		switch {
		case c.failure != nil:
			err = c.failure
		case c.signedOn:
			err = errSilent
		}
	}
	c.mu.Unlock()
	c.ended(err)
	return n, err
}

// listen begins the time in which the broker has to say something.
func (c *bufferedConn) listen() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.signedOn && c.failure == nil {
		_ = c.Conn.SetReadDeadline(time.Now().Add(c.silence)) // if it fails, so does Read
	}
}

// Write takes all of p and returns at once. What comes after the end goes
// nowhere.
func (c *bufferedConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failure != nil {
		return len(p), nil
	}
	select {
	case <-c.done:
		return len(p), nil
	default:
	}
	c.write(p)
	return len(p), nil
}

// write appends a whole packet to what is to be written. It is called with mu
// held.
func (c *bufferedConn) write(packet []byte) {
	if len(packet) == 2 && packet[0] == pingRequest {
		c.pings++
	}
	c.pending = append(c.pending, packet...)
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// barrier puts a ping behind everything that was written. A broker takes the
// packets of a connection in their order: once the answer to the n-th ping is
// there, it has got everything before it, at whatever QoS.
func (c *bufferedConn) barrier() (n uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.write([]byte{pingRequest, 0})
	return c.pings
}

// SetWriteDeadline does nothing: writes have deadlines of their own.
func (c *bufferedConn) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline sets the deadline of signing on; paho sets none once that is
// done.
func (c *bufferedConn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.signedOn = t.IsZero()
	if c.failure != nil {
		return nil
	}
	return c.Conn.SetReadDeadline(t)
}

// Close gives what is still to be written (paho's DISCONNECT) a moment and
// then closes the connection.
func (c *bufferedConn) Close() error {
	select {
	case <-c.done:
	case <-c.drained():
	case <-time.After(closeGrace):
	}
	c.Abort()
	return nil
}

// drained returns a channel that is closed once nothing is left to write.
func (c *bufferedConn) drained() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idle == nil {
		c.idle = make(chan struct{})
		if c.failure != nil || len(c.pending) == 0 && !c.writing {
			close(c.idle)
		}
	}
	return c.idle
}

// Abort ends the connection at once and waits for the goroutine.
func (c *bufferedConn) Abort() {
	c.closeOnce.Do(func() {
		close(c.done)
		c.hangUp()
		c.Conn.Close()
	})
	<-c.flushed
}

// flush writes what is pending until the connection ends.
func (c *bufferedConn) flush() {
	defer close(c.flushed)
	var batch []byte
	for {
		select {
		case <-c.wake:
		case <-c.done:
			return
		}
		batch = c.take(batch[:0])
		err := c.writeAll(batch)
		if c.settle(err) {
			return
		}
	}
}

// take exchanges what is pending for an empty buffer.
func (c *bufferedConn) take(empty []byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	batch := c.pending
	c.pending, c.writing = empty, true
	return batch
}

func (c *bufferedConn) writeAll(p []byte) error {
	for len(p) > 0 {
		n := min(len(p), writeChunk)
		if err := c.Conn.SetWriteDeadline(time.Now().Add(c.writeTimeout)); err != nil {
			return err
		}
		n, err := c.Conn.Write(p[:n])
		c.wrote.Add(uint64(n))
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// settle notes how a write ended, and says whether it was the last.
func (c *bufferedConn) settle(err error) (over bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing = false
	if err != nil {
		// The other side may have said why: the reader still listens.
		c.failure = err
		_ = c.Conn.SetReadDeadline(time.Now().Add(lastWords))
	}
	if c.idle != nil && (err != nil || len(c.pending) == 0) {
		select {
		case <-c.idle:
		default:
			close(c.idle)
		}
	}
	return err != nil
}
