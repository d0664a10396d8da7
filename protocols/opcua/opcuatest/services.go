package opcuatest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"time"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
	"github.com/gopcua/opcua/uapolicy"
)

// answer handles one request. A Publish is answered later.
func (c *client) answer(ctx context.Context, reqID uint32, req ua.Request) error {
	res, err := c.handle(reqID, req)
	if err != nil {
		status := ua.StatusBadInternalError
		errors.As(err, &status)
		res = &ua.ServiceFault{ResponseHeader: header(req, status)}
	}
	if res == nil {
		return nil
	}
	if c.srv.o.Tamper != nil {
		c.srv.o.Tamper(res)
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

func (c *client) handle(reqID uint32, req ua.Request) (ua.Response, error) {
	switch req := req.(type) {
	case *ua.CloseSecureChannelRequest:
		return nil, nil //nolint:nilnil // it has no answer; the client closes the connection
	case *ua.GetEndpointsRequest:
		return &ua.GetEndpointsResponse{ResponseHeader: header(req, ua.StatusOK), Endpoints: c.srv.endpoints()}, nil
	case *ua.CreateSessionRequest:
		return c.createSession(req)
	case *ua.ActivateSessionRequest:
		return c.activateSession(req)
	}
	s, status := c.sessionOf(req)
	if s == nil {
		return nil, status
	}
	switch req := req.(type) {
	case *ua.CloseSessionRequest:
		s.close(req.DeleteSubscriptions)
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
		return s.createSubscription(req)
	case *ua.DeleteSubscriptionsRequest:
		return s.deleteSubscriptions(req), nil
	case *ua.CreateMonitoredItemsRequest:
		return s.createItems(req)
	case *ua.PublishRequest:
		return s.queuePublish(c, reqID, req)
	case *ua.RepublishRequest:
		return s.republish(req)
	case *ua.TransferSubscriptionsRequest:
		return s.transfer(req)
	case *ua.DeleteMonitoredItemsRequest:
		return s.deleteItems(req)
	case *ua.HistoryReadRequest:
		return c.srv.historyRead(req)
	}
	return nil, ua.StatusBadServiceUnsupported
}

// sessionOf returns the session that a request belongs to, or what is wrong.
func (c *client) sessionOf(req ua.Request) (*session, ua.StatusCode) {
	h := req.Header()
	if h == nil || h.AuthenticationToken == nil {
		return nil, ua.StatusBadSessionIDInvalid
	}
	c.srv.subs.Lock()
	defer c.srv.subs.Unlock()
	s := c.srv.sessions[h.AuthenticationToken.IntID()]
	switch {
	case s == nil:
		return nil, ua.StatusBadSessionIDInvalid
	case s.client != c:
		return nil, ua.StatusBadSecureChannelIDInvalid
	case !s.active:
		return nil, ua.StatusBadSessionNotActivated
	}
	s.used = time.Now()
	return s, ua.StatusOK
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
	tokenPolicy, application := ua.SecurityPolicyURINone, "urn:"+s.o.Name
	if s.o.Identity != nil {
		tokenPolicy = ua.SecurityPolicyURIBasic256Sha256
		cert, application = s.o.Identity.cert, s.o.Identity.uri
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
				ApplicationURI: application, ProductURI: "urn:millrace:opcuatest",
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
	sess := newSession(c, nonce, req)
	c.srv.subs.Lock()
	full := c.srv.o.MaxSessions > 0 && len(c.srv.sessions) >= c.srv.o.MaxSessions
	if !full {
		c.srv.sessions[sess.id] = sess
	}
	c.srv.subs.Unlock()
	if full {
		return nil, ua.StatusBadTooManySessions
	}
	return &ua.CreateSessionResponse{
		ResponseHeader:        header(req, ua.StatusOK),
		SessionID:             ua.NewNumericNodeID(1, sess.id),
		AuthenticationToken:   ua.NewNumericNodeID(0, sess.id),
		RevisedSessionTimeout: float64(sess.timeout) / float64(time.Millisecond),
		ServerNonce:           nonce, ServerCertificate: c.cfg.Certificate,
		ServerEndpoints: c.srv.endpoints(),
		ServerSignature: &ua.SignatureData{Signature: sig, Algorithm: alg},
	}, nil
}

// activateSession also moves a session to another channel, whose client must
// have the same certificate and be the same user (Part 4, 5.7.3).
func (c *client) activateSession(req *ua.ActivateSessionRequest) (ua.Response, error) {
	c.srv.subs.Lock()
	s := c.srv.sessions[req.RequestHeader.AuthenticationToken.IntID()]
	var nonce []byte
	if s != nil {
		nonce = s.nonce
	}
	c.srv.subs.Unlock()
	if s == nil {
		return nil, ua.StatusBadSessionIDInvalid
	}
	if c.cfg.SecurityMode != ua.MessageSecurityModeNone && !bytes.Equal(c.cfg.RemoteCertificate, s.clientCert) {
		return nil, ua.StatusBadSecurityChecksFailed
	}
	if err := c.sc.VerifySessionSignature(s.clientCert, nonce, req.ClientSignature.Signature); err != nil {
		return nil, ua.StatusBadApplicationSignatureInvalid
	}
	if err := c.checkUser(nonce, req.UserIdentityToken); err != nil {
		return nil, err
	}
	user := ""
	if u, ok := req.UserIdentityToken.Value.(*ua.UserNameIdentityToken); ok {
		user = u.UserName
	}
	fresh := make([]byte, 32)
	if _, err := rand.Read(fresh); err != nil {
		return nil, err
	}
	c.srv.subs.Lock()
	defer c.srv.subs.Unlock()
	switch {
	case c.srv.sessions[s.id] != s:
		return nil, ua.StatusBadSessionIDInvalid
	case s.active && s.user != user:
		return nil, ua.StatusBadUserAccessDenied
	case !s.active && s.client != c:
		return nil, ua.StatusBadSecureChannelIDInvalid
	}
	if !s.active {
		s.run(c.srv.life)
	}
	s.active, s.user, s.nonce = true, user, fresh
	s.attach(c)
	return &ua.ActivateSessionResponse{ResponseHeader: header(req, ua.StatusOK), ServerNonce: fresh}, nil
}

func (c *client) checkUser(nonce []byte, token *ua.ExtensionObject) error {
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
		if err != nil || len(plain) < 4+len(nonce) || int(binary.LittleEndian.Uint32(plain)) != len(plain)-4 {
			return ua.StatusBadIdentityTokenInvalid
		}
		password = plain[4 : len(plain)-len(nonce)]
	}
	if want, ok := c.srv.o.Users[user.UserName]; !ok || want != string(password) {
		return ua.StatusBadUserAccessDenied
	}
	return nil
}

// leave lets go of the sessions on a connection that has ended.
func (c *client) leave() {
	var ended []*session
	c.srv.subs.Lock()
	for _, s := range c.srv.sessions {
		if s.client != c {
			continue
		}
		s.detach(c)
		if c.srv.o.Forgetful || !s.active {
			ended = append(ended, s)
		}
	}
	c.srv.subs.Unlock()
	for _, s := range ended {
		s.close(true)
	}
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
	if s.o.Attribute != nil {
		v := s.o.Attribute(r.NodeID, r.AttributeID)
		if status, ok := v.(ua.StatusCode); ok {
			return badValue(status)
		}
		if v != nil {
			return goodValue(v)
		}
	}
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
	case ua.AttributeIDDataType:
		return goodValue(ua.NewNumericNodeID(0, uint32(typeOf(n.current(now)))))
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

func (s *Server) historyRead(req *ua.HistoryReadRequest) (ua.Response, error) {
	if s.o.History == nil || req.HistoryReadDetails == nil {
		return nil, ua.StatusBadServiceUnsupported
	}
	details, ok := req.HistoryReadDetails.Value.(*ua.ReadRawModifiedDetails)
	if !ok {
		return nil, ua.StatusBadHistoryOperationUnsupported
	}
	results, err := s.o.History(req, details)
	if err != nil {
		return nil, err
	}
	return &ua.HistoryReadResponse{ResponseHeader: header(req, ua.StatusOK), Results: results}, nil
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

// typeOf is the built-in type of a value, which is the data type as well.
func typeOf(dv *ua.DataValue) ua.TypeID {
	if dv == nil || dv.Value == nil || dv.Value.Type() == ua.TypeIDNull {
		return id.BaseDataType
	}
	return dv.Value.Type()
}
