package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
)

// parseBroker reads a broker's URL and fills in the port, and the path of a
// WebSocket.
func parseBroker(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		// The URL may hold a password: only what is wrong with it is said.
		if bad, ok := errors.AsType[*url.Error](err); ok {
			err = bad.Err
		}
		return nil, fmt.Errorf("broker is not a URL like mqtt://HOST:1883: %w", err)
	}
	ports := map[string]string{"mqtt": "1883", "mqtts": "8883", "ws": "80", "wss": "443"}
	port, ok := ports[u.Scheme]
	switch {
	case !ok:
		return nil, fmt.Errorf("broker has the scheme %q; use mqtt://, mqtts:// (TLS), ws:// or wss:// (WebSocket)", u.Scheme)
	case u.Hostname() == "":
		return nil, fmt.Errorf("broker names no host; write it as %s://HOST:%s", u.Scheme, port)
	case u.User != nil:
		return nil, errors.New("broker holds a user name; put it into username and password, which are not shown")
	}
	if u.Port() == "" {
		u.Host = net.JoinHostPort(u.Hostname(), port)
	}
	switch {
	case isWebSocket(u):
		if u.Path == "" {
			u.Path = "/mqtt" // where brokers have it unless told otherwise
		}
	case u.Path != "" && u.Path != "/":
		return nil, fmt.Errorf("broker has the path %q, which only ws:// and wss:// can have", u.Path)
	}
	return u, nil
}

func isSecure(u *url.URL) bool { return u.Scheme == "mqtts" || u.Scheme == "wss" }

func isWebSocket(u *url.URL) bool { return strings.HasPrefix(u.Scheme, "ws") }

// dial opens the network connection of s, TLS included.
func (u *Uplink) dial(ctx context.Context, secure *tls.Config, s *session) (*bufferedConn, error) {
	o := connOptions{
		ended: s.broken, ponged: s.pong, writeTimeout: u.o.AckTimeout, wrote: &u.wrote,
		// paho sends a ping up to a quarter late.
		silence: u.o.KeepAlive + u.o.KeepAlive/4 + u.o.PingTimeout,
	}
	conn, hangUp, err := dialNetwork(ctx, s.broker, secure, u.o.ConnectTimeout)
	if err != nil {
		return nil, err
	}
	o.hangUp = hangUp
	return newBufferedConn(conn, o), nil
}

// dialNetwork opens the network connection, TLS included. hangUp ends it at
// once: closing TLS says goodbye first, which takes up to 5 s on a stalled
// line.
func dialNetwork(ctx context.Context, broker *url.URL, secure *tls.Config, timeout time.Duration) (conn net.Conn, hangUp func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if isWebSocket(broker) {
		// paho's WebSocket takes no context: it ends with its time-out.
		conn, err := paho.NewWebsocket(broker.String(), secure, timeout, nil, nil)
		if err != nil {
			return nil, nil, err
		}
		return conn, func() { conn.Close() }, nil
	}
	var dialer net.Dialer
	socket, err := dialer.DialContext(ctx, "tcp", broker.Host)
	if err != nil {
		return nil, nil, err
	}
	hangUp = func() { socket.Close() }
	if secure == nil {
		return socket, hangUp, nil
	}
	client := tls.Client(socket, secure)
	if err := client.HandshakeContext(ctx); err != nil {
		socket.Close()
		return nil, nil, err
	}
	return client, hangUp, nil
}
