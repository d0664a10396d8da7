package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"millrace/protocols/opcua"
)

// trustState is what a server's certificate is worth to this gateway.
type trustState string

const (
	stateTrusted   trustState = "trusted"
	stateRefused   trustState = "refused" // trusted, but something is wrong with it
	stateUntrusted trustState = "not trusted"
	stateUnchecked trustState = "not checked" // policy None
	stateSilent    trustState = "no answer"
)

// trustAnswer is what trust --json prints of a device.
type trustAnswer struct {
	Device      string            `json:"device,omitempty"`
	Endpoint    string            `json:"endpoint"`
	State       trustState        `json:"state"`
	Trusted     bool              `json:"trusted"`
	TrustedBy   string            `json:"trusted_by,omitempty"`
	MovedTo     string            `json:"moved_to,omitempty"`
	Policy      string            `json:"policy,omitempty"`
	Mode        string            `json:"mode,omitempty"`
	Silent      string            `json:"error,omitempty"` // why the server did not answer
	Certificate *trustCertificate `json:"certificate,omitempty"`
	Why         string            `json:"why,omitempty"`
	Faults      []string          `json:"faults,omitempty"`
	Tolerated   []string          `json:"tolerated,omitempty"`
	Notes       []string          `json:"notes,omitempty"`
}

type trustCertificate struct {
	Subject     string    `json:"subject"`
	Issuer      string    `json:"issuer"`
	From        time.Time `json:"not_before"`
	Until       time.Time `json:"not_after"`
	Hosts       []string  `json:"hosts"`
	Application string    `json:"application_uri"`
	KeyBits     int       `json:"key_bits"`
	SignedWith  string    `json:"signature"`
	SHA1        string    `json:"sha1"`
	SHA256      string    `json:"sha256"`
}

func trustAnswerOf(device string, i *opcua.Inspection) trustAnswer {
	a := trustAnswer{
		Device: device, Endpoint: i.Endpoint, State: trustStateOf(i), Trusted: i.TrustedBy != "", TrustedBy: i.TrustedBy,
		Policy: i.Policy, Mode: i.Mode, Why: i.Why, Faults: i.Faults, Tolerated: i.Tolerated, Notes: i.Notes,
	}
	if i.Silent != nil {
		a.Silent = i.Silent.Error()
	}
	if i.Certificate != nil {
		a.Certificate = &trustCertificate{
			Subject: i.Subject, Issuer: i.Issuer, From: i.From, Until: i.Until, Hosts: append([]string{}, i.Hosts...), Application: i.Application,
			KeyBits: i.KeyBits, SignedWith: i.SignedWith, SHA1: i.SHA1, SHA256: i.SHA256,
		}
	}
	return a
}

func trustStateOf(i *opcua.Inspection) trustState {
	switch {
	case i.Unchecked:
		return stateUnchecked
	case i.Trusted():
		return stateTrusted
	case i.TrustedBy != "":
		return stateRefused
	}
	return stateUntrusted
}

// inspectionText is a server's certificate for the one who is to trust it.
func inspectionText(device string, i *opcua.Inspection) string {
	var b strings.Builder
	if device != "" {
		device += "  "
	}
	fmt.Fprintf(&b, "%s%s", device, i.Endpoint)
	if i.Policy != "" {
		fmt.Fprintf(&b, "  %s %s", i.Policy, i.Mode)
	}
	b.WriteString("\n")
	if i.Silent != nil {
		fmt.Fprintf(&b, "The server does not answer (%s).\nThis certificate was refused earlier, and may be its:\n", printable(i.Silent.Error()))
	}
	if i.Certificate == nil {
		b.WriteString("The server offers no security: it has no certificate to trust.\n")
		return b.String()
	}
	issuer := i.Issuer
	if i.Issuer == i.Subject {
		issuer = "itself"
	}
	hosts := "none"
	if len(i.Hosts) > 0 {
		hosts = strings.Join(i.Hosts, ", ")
	}
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range [][2]string{
		{"subject", i.Subject},
		{"issuer", issuer},
		{"valid", i.From.Format(time.DateOnly) + " to " + i.Until.Format(time.DateOnly)},
		{"hosts", hosts},
		{"application", i.Application},
		{"key", fmt.Sprintf("RSA, %d bits; signed with %s", i.KeyBits, i.SignedWith)},
		{"SHA-1", i.SHA1},
		{"SHA-256", i.SHA256},
	} {
		fmt.Fprintf(w, "  %s\t%s\n", row[0], printable(row[1]))
	}
	_ = w.Flush() // a strings.Builder takes everything
	b.WriteString(verdictText(i))
	return b.String()
}

func verdictText(i *opcua.Inspection) string {
	var b strings.Builder
	switch {
	case i.TrustedBy != "":
		fmt.Fprintf(&b, "It is trusted, by %s.\n", i.TrustedBy)
	case i.Why != "":
		fmt.Fprintf(&b, "It is not trusted: %s.\n", printable(i.Why))
	default:
		b.WriteString("It is not trusted.\n")
	}
	if i.Unchecked {
		b.WriteString("The device's policy is None: nobody looks at the certificate.\n")
	}
	refused := "It is refused all the same"
	if i.TrustedBy == "" {
		refused = "Even if it is trusted it is refused"
	}
	for _, f := range i.Faults {
		fmt.Fprintf(&b, "%s: %s.\n", refused, printable(f))
	}
	for _, f := range i.Tolerated {
		fmt.Fprintf(&b, "Tolerated, as the configuration says: %s.\n", printable(f))
	}
	for _, n := range i.Notes {
		fmt.Fprintf(&b, "Note: %s.\n", printable(n))
	}
	return b.String()
}

// printable takes what a terminal would obey out of what a stranger wrote.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

func trustListText(answers []trustAnswer) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for i := range answers {
		a := &answers[i]
		detail := ""
		switch {
		case a.State == stateSilent:
			detail = a.Silent
		case a.State == stateUnchecked:
			detail = "the device's policy is None"
		case a.State == stateRefused:
			detail = strings.Join(a.Faults, "; ")
		case a.Certificate != nil:
			detail = "SHA-1 " + a.Certificate.SHA1
			if a.Silent != "" {
				detail += ", refused earlier; the server does not answer now"
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", a.Device, a.Endpoint, a.State, printable(detail))
	}
	_ = w.Flush() // a strings.Builder takes everything
	return b.String()
}
