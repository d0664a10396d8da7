package opcua

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gopcua/opcua/ua"
)

// oddServer answers each message of a client by what say gives it, and
// returns its address. nil ends the connection.
func oddServer(t *testing.T, say ...[]byte) *url.URL {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			in := make([]byte, 1<<16)
			for _, b := range say {
				if _, err := c.Read(in); err != nil {
					break
				}
				if _, err := c.Write(b); err != nil {
					break
				}
			}
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	u, err := parseEndpoint("opc.tcp://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// rawMessage is a message of the transport with its length.
func rawMessage(kind string, body ...byte) []byte {
	b := binary.LittleEndian.AppendUint32([]byte(kind), uint32(8+len(body)))
	return append(b, body...)
}

// TestOddLengths: lengths that are below zero where an int has 32 bits, as on
// an ARMv7 gateway, end the connection and not the program. (GOARCH=386 go
// test shows it on a PC.)
func TestOddLengths(t *testing.T) {
	t.Parallel()
	ack := rawMessage("ACKF", 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	below := []byte{0, 0, 0, 0x80}
	opening := []byte{1, 0, 0, 0} // the channel
	for name, say := range map[string][][]byte{
		"error for a hello":    {rawMessage("ERRF", append([]byte{0, 0, 0x7d, 0x80}, below...)...)},
		"error for an opening": {ack, rawMessage("ERRF", append([]byte{0, 0, 0x7d, 0x80}, below...)...)},
		"policy":               {ack, rawMessage("OPNF", append(opening, below...)...)},
		"certificate":          {ack, rawMessage("OPNF", append(append(opening, 0, 0, 0, 0), below...)...)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := oddServer(t, say...)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			ch, err := openChannel(ctx, u, plainConfig(), time.Second, time.Hour)
			if err == nil {
				ch.close()
				t.Fatal("it was opened")
			}
			if errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		})
	}
}

// TestReaderStumbles: what the reader stumbles over ends its connection, and
// whoever waits is told.
func TestReaderStumbles(t *testing.T) {
	t.Parallel()
	c := dialPlain(t)
	trap := make(chan incoming)
	close(trap) // handing an answer over panics
	if _, err := c.sc.send(&ua.GetEndpointsRequest{EndpointURL: "opc.tcp://x"}, nil, time.Second, trap, nil); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.sc.ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the reader goes on")
	}
	if err := c.because(io.EOF); !errors.Is(err, errPanicked) {
		t.Errorf("%v", err)
	}
}

// TestHarmless: what a server writes is one line of text, in its own order.
func TestHarmless(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"\x1b[2Ja\u009b1mb\x7f":                   "[2Ja 1mb",
		"a\u202eb\u2066c\u2069\u2028d\u2029\r\ne": "a b c  d   e",
		"\xff漢字 \u200dé":                          "?漢字 \u200dé",
	} {
		if got := oneLine(in); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
	if got := oneLine(strings.Repeat("é", 501)); got != strings.Repeat("é", 500)+"…" {
		t.Errorf("%d bytes", len(got))
	}
	b := newBus(New(Options{}), &connConf{url: &url.URL{Host: "plc"}})
	if e := b.explain("connecting", errors.New("MsgType=\x1bc"+strings.Repeat("x", 1<<20))); strings.Contains(e.Text, "\x1b") || len(e.Text) > 5000 {
		t.Errorf("%d bytes: %.40q", len(e.Text), e.Text)
	}
}
