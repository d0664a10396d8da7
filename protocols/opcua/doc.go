// Package opcua reads OPC UA servers, by subscription or by polling, for the
// collector: it implements protocols.Driver, Bus, Scan and Subscriber.
//
// It stands on gopcua's codec (ua), transport (uacp), policies (uapolicy) and
// message headers (uasc), and keeps secure channels, sessions, subscriptions
// and the trust in certificates in its own hands. What brings the values is
// decoded without gopcua's reflection, and by who asked for it (see
// secureChannel). gopcua's Client is not used: it verifies no certificate, can
// fall silent after a short break of the network while it says that it is
// connected, hides the keep-alives that would show it, and may take ten
// seconds to close. Nothing here reconnects by itself: any failure of the
// connection is reported, and the loop above closes and connects again, and
// goes on with the session and the subscriptions where the server still has
// them (survivor.go).
//
// The server's certificate is verified whenever the channel is signed or
// encrypted (Part 4, 6.1.3): it, or an authority above it, must be in the trust
// list (pki.go, chain.go), and it must be valid, not revoked, and for this host
// and this application (verify.go), unless the configuration tolerates that it
// is not. While a session stands, its certificate is looked up again every half
// minute (trustwatch.go). Policy None, which a user must write down, means that
// the server's identity is not checked; a password is encrypted all the same.
//
// gopcua reads from the connection in a goroutine of its own, which a malformed
// chunk may make panic; nothing here can catch that. What it does for a request
// of ours is guarded (channel.go).
//
// A reading's source time is the server's SourceTimestamp, or its
// ServerTimestamp where it gives no other.
package opcua
