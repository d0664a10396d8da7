package opcuatest

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"time"

	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uapolicy"
)

// answer handles one request. A Publish is answered later.
func (c *client) answer(ctx context.Context, reqID uint32, req ua.Request) error {
	res, err := c.handle(ctx, reqID, req)
	if err != nil {
		status := ua.StatusBadInternalError
		errors.As(err, &status)
		res = &ua.ServiceFault{ResponseHeader: header(req, status)}
	}
	if res == nil {
		return nil
	}
	return c.sc.SendResponseWithContext(ctx, reqID, res)
}

func header(req ua.Request, status ua.StatusCode) *ua.ResponseHeader {
	h := &ua.ResponseHeader{
		Timestamp: time.Now(), ServiceResult: status,
		ServiceDiagnostics: &ua.DiagnosticInfo{}, StringTable: []string{}, AdditionalHeader: ua.NewExtensionObject(nil),
	}
	if r := req.Header(); r != nil {
		h.RequestHandle = r.RequestHandle
	}
	return h
}

func (c *client) handle(ctx context.Context, reqID uint32, req ua.Request) (ua.Response, error) {
	switch req := req.(type) {
	case *ua.CloseSecureChannelRequest:
		return nil, nil //nolint:nilnil // it has no answer; the client closes the connection
	case *ua.GetEndpointsRequest:
		return &ua.GetEndpointsResponse{ResponseHeader: header(req, ua.StatusOK), Endpoints: c.srv.endpoints()}, nil
	case *ua.CreateSessionRequest:
		return c.createSession(req)
	case *ua.ActivateSessionRequest:
		return c.activateSession(ctx, req)
	}
	s := c.sessionOf(req)
	if s == nil {
		return nil, ua.StatusBadSessionIDInvalid
	}
	if !s.active {
		return nil, ua.StatusBadSessionNotActivated
	}
	switch req := req.(type) {
	case *ua.CloseSessionRequest:
		c.endSession()
		return &ua.CloseSessionResponse{ResponseHeader: header(req, ua.StatusOK)}, nil
	case *ua.ReadRequest:
		return c.srv.read(req)
	case *ua.BrowseRequest:
		return c.srv.browse(req)
	case *ua.BrowseNextRequest:
		return c.srv.browseNext(req), nil
	case *ua.TranslateBrowsePathsToNodeIDsRequest:
		if c.srv.o.Browse.NoPaths {
			return nil, ua.StatusBadServiceUnsupported
		}
		return c.srv.translate(req), nil
	case *ua.CreateSubscriptionRequest:
		return s.createSubscription(req), nil
	case *ua.DeleteSubscriptionsRequest:
		return s.deleteSubscriptions(req), nil
	case *ua.CreateMonitoredItemsRequest:
		return s.createItems(req)
	case *ua.PublishRequest:
		return s.queuePublish(reqID, req)
	}
	return nil, ua.StatusBadServiceUnsupported
}

// sessionOf returns the session that a request belongs to.
func (c *client) sessionOf(req ua.Request) *session {
	h := req.Header()
	if c.session == nil || h == nil || h.AuthenticationToken == nil || h.AuthenticationToken.IntID() != c.session.id {
		return nil
	}
	return c.session
}

func (s *Server) endpoints() []*ua.EndpointDescription {
	type offer struct {
		policy string
		mode   ua.MessageSecurityMode
	}
	var offers []offer
	if !s.o.OnlySecure {
		offers = append(offers, offer{ua.SecurityPolicyURINone, ua.MessageSecurityModeNone})
	}
	var cert []byte
	tokenPolicy := ua.SecurityPolicyURINone
	if s.o.Identity != nil {
		tokenPolicy = ua.SecurityPolicyURIBasic256Sha256
		cert = s.o.Identity.cert
		offers = append(offers,
			offer{ua.SecurityPolicyURIBasic256Sha256, ua.MessageSecurityModeSign},
			offer{ua.SecurityPolicyURIBasic256Sha256, ua.MessageSecurityModeSignAndEncrypt})
	}
	token := &ua.UserTokenPolicy{PolicyID: "anonymous", TokenType: ua.UserTokenTypeAnonymous}
	if len(s.o.Users) > 0 {
		token = &ua.UserTokenPolicy{PolicyID: "username", TokenType: ua.UserTokenTypeUserName, SecurityPolicyURI: tokenPolicy}
	}
	var list []*ua.EndpointDescription
	for i, o := range offers {
		list = append(list, &ua.EndpointDescription{
			// A name that nobody can resolve, as real servers like to give.
			EndpointURL: "opc.tcp://unreachable.invalid:4840",
			Server: &ua.ApplicationDescription{
				ApplicationURI: "urn:" + s.o.Name, ProductURI: "urn:millrace:opcuatest",
				ApplicationName: ua.NewLocalizedText(s.o.Name), ApplicationType: ua.ApplicationTypeServer,
			},
			ServerCertificate: cert, SecurityMode: o.mode, SecurityPolicyURI: o.policy,
			UserIdentityTokens:  []*ua.UserTokenPolicy{token},
			TransportProfileURI: "http://opcfoundation.org/UA-Profile/Transport/uatcp-uasc-uabinary",
			SecurityLevel:       uint8(i),
		})
	}
	return list
}

func (c *client) createSession(req *ua.CreateSessionRequest) (ua.Response, error) {
	c.endSession()
	if c.srv.o.OnlySecure && c.cfg.SecurityMode == ua.MessageSecurityModeNone {
		return nil, ua.StatusBadSecurityModeRejected
	}
	nonce := make([]byte, 32)
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	sig, alg, err := c.sc.NewSessionSignature(req.ClientCertificate, req.ClientNonce)
	if err != nil {
		return nil, ua.StatusBadCertificateInvalid
	}
	c.session = newSession(c, nonce, req.ClientCertificate)
	return &ua.CreateSessionResponse{
		ResponseHeader:        header(req, ua.StatusOK),
		SessionID:             ua.NewNumericNodeID(1, c.session.id),
		AuthenticationToken:   ua.NewNumericNodeID(0, c.session.id),
		RevisedSessionTimeout: req.RequestedSessionTimeout,
		ServerNonce:           nonce, ServerCertificate: c.cfg.Certificate,
		ServerEndpoints: c.srv.endpoints(),
		ServerSignature: &ua.SignatureData{Signature: sig, Algorithm: alg},
	}, nil
}

func (c *client) activateSession(ctx context.Context, req *ua.ActivateSessionRequest) (ua.Response, error) {
	s := c.sessionOf(req)
	if s == nil {
		return nil, ua.StatusBadSessionIDInvalid
	}
	if err := c.sc.VerifySessionSignature(s.clientCert, s.nonce, req.ClientSignature.Signature); err != nil {
		return nil, ua.StatusBadApplicationSignatureInvalid
	}
	if err := c.checkUser(s, req.UserIdentityToken); err != nil {
		return nil, err
	}
	c.srv.mu.Lock()
	s.active = true
	c.srv.sessions[s.id] = s
	c.srv.mu.Unlock()
	s.run(ctx)
	return &ua.ActivateSessionResponse{ResponseHeader: header(req, ua.StatusOK), ServerNonce: s.nonce}, nil
}

func (c *client) checkUser(s *session, token *ua.ExtensionObject) error {
	if len(c.srv.o.Users) == 0 {
		return nil
	}
	user, ok := token.Value.(*ua.UserNameIdentityToken)
	if !ok {
		return ua.StatusBadIdentityTokenRejected
	}
	password := user.Password
	if user.EncryptionAlgorithm != "" {
		algo, err := uapolicy.Asymmetric(ua.SecurityPolicyURIBasic256Sha256, c.srv.key(), nil)
		if err != nil {
			return err
		}
		plain, err := algo.Decrypt(user.Password)
		// Part 4, 7.41.2.2: a length, the password, the server's nonce.
		if err != nil || len(plain) < 4+len(s.nonce) || int(binary.LittleEndian.Uint32(plain)) != len(plain)-4 {
			return ua.StatusBadIdentityTokenInvalid
		}
		password = plain[4 : len(plain)-len(s.nonce)]
	}
	if want, ok := c.srv.o.Users[user.UserName]; !ok || want != string(password) {
		return ua.StatusBadUserAccessDenied
	}
	return nil
}

func (c *client) endSession() {
	s := c.session
	if s == nil {
		return
	}
	c.session = nil
	c.srv.mu.Lock()
	delete(c.srv.sessions, s.id)
	c.srv.mu.Unlock()
	s.end()
}

func (s *Server) read(req *ua.ReadRequest) (ua.Response, error) {
	if limit := s.o.MaxNodesPerRead; limit > 0 && len(req.NodesToRead) > limit {
		return nil, ua.StatusBadTooManyOperations
	}
	now := s.o.Now()
	results := make([]*ua.DataValue, len(req.NodesToRead))
	for i, r := range req.NodesToRead {
		results[i] = s.attribute(r, now)
	}
	return &ua.ReadResponse{ResponseHeader: header(req, ua.StatusOK), Results: results}, nil
}

func (s *Server) attribute(r *ua.ReadValueID, now time.Time) *ua.DataValue {
	if dv := s.treeAttribute(r); dv != nil {
		return dv
	}
	n := s.space.find(r.NodeID)
	if n == nil {
		return badValue(ua.StatusBadNodeIDUnknown)
	}
	switch r.AttributeID {
	case ua.AttributeIDValue:
		if r.IndexRange != "" {
			return badValue(ua.StatusBadIndexRangeNoData)
		}
		return n.current(now)
	case ua.AttributeIDNodeClass:
		return goodValue(int32(ua.NodeClassVariable))
	case ua.AttributeIDBrowseName:
		return goodValue(&ua.QualifiedName{NamespaceIndex: n.id.Namespace(), Name: n.name})
	case ua.AttributeIDDisplayName:
		return goodValue(ua.NewLocalizedText(n.name))
	}
	if dv := standardAttribute(n, r.AttributeID, now); dv != nil {
		return dv
	}
	return badValue(ua.StatusBadAttributeIDInvalid)
}

func badValue(status ua.StatusCode) *ua.DataValue {
	return &ua.DataValue{EncodingMask: ua.DataValueStatusCode, Status: status}
}

func goodValue(v any) *ua.DataValue {
	variant, err := ua.NewVariant(v)
	if err != nil {
		return badValue(ua.StatusBadInternalError)
	}
	return &ua.DataValue{EncodingMask: ua.DataValueValue, Value: variant}
}
