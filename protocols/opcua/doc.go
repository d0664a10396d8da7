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
// connection is reported, and the loop above closes and connects again, with
// everything made anew.
//
// The server's certificate must be in the trust list whenever the channel is
// signed or encrypted. Policy None, which a user must write down, means that the
// server's identity is not checked; a password is encrypted all the same.
//
// A reading's source time is the server's SourceTimestamp, or its
// ServerTimestamp where it gives no other.
package opcua
