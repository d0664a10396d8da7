package opcua

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"
)

// The most that is asked for at once, whatever a server allows: an answer
// then stays well below a second and a megabyte.
const (
	maxNodesPerRead        = 500
	maxItemsPerCall        = 500
	maxNodesPerBrowse      = 500
	maxPathsPerTranslate   = 500
	maxNodesPerHistoryRead = 100
)

// limits are how much one request to a server may ask for (Part 5, 6.3.2 and
// 6.3.11), and what else it says of its bounds. One goroutine at a time uses
// them: who is told BadTooManyOperations makes them smaller.
type limits struct {
	perRead        int // nodes of a Read
	perItems       int // items of a CreateMonitoredItems
	perBrowse      int // nodes of a Browse or BrowseNext
	perTranslate   int // paths of a TranslateBrowsePathsToNodeIds
	perHistoryRead int // nodes of a HistoryRead of raw data

	// What follows is 0 where the server does not say, or has no limit.
	itemsPerSubscription    int
	subscriptionsPerSession int
	sessions                int
	arrayLength             int
	queueSize               int // values of one item

	product string // what the server calls itself, for messages
	profile string // what is known of its make beyond what it says; "none": nothing
}

// ownLimits are those for a server that says nothing.
func ownLimits() limits {
	return limits{
		perRead: maxNodesPerRead, perItems: maxItemsPerCall, perBrowse: maxNodesPerBrowse,
		perTranslate: maxPathsPerTranslate, perHistoryRead: maxNodesPerHistoryRead, profile: profileNone,
	}
}

// most makes no call ask for more than n nodes; 0: nothing changes.
func (l *limits) most(n int) {
	if n <= 0 {
		return
	}
	for _, each := range []*int{&l.perRead, &l.perItems, &l.perBrowse, &l.perTranslate, &l.perHistoryRead} {
		*each = min(*each, n)
	}
}

// readLimits asks for the namespaces and for how much the server takes at
// once. A server that does not say gets our own limits.
func (s *session) readLimits(ctx context.Context, conf *connConf) error {
	// Not one request with all of them: some small servers refuse the whole of
	// a Read with more nodes than they like.
	first, err := s.readStandard(ctx, id.Server_NamespaceArray, id.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead,
		id.Server_ServerStatus_BuildInfo_ProductName, id.Server_ServerStatus_BuildInfo_ManufacturerName, id.Server_ServerStatus_StartTime)
	if err != nil {
		return err
	}
	if v := first[0]; v != nil && v.Value != nil {
		s.namespaces, _ = v.Value.Value().([]string)
	}
	s.limits.perRead = limit(first[1], maxNodesPerRead)
	s.limits.product = textOf(first[2])
	s.bond.started = timeOf(first[4])
	s.limits.profile = conf.profileOf(s.limits.product, textOf(first[3]))
	if err := s.readOtherLimits(ctx); err != nil {
		return err
	}
	s.limits.most(profiles()[s.limits.profile])
	s.limits.most(conf.maxPerCall)
	return nil
}

func (s *session) readOtherLimits(ctx context.Context) error {
	l := &s.limits
	wanted := []struct {
		node uint32
		to   *int
		ours int
	}{
		{id.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall, &l.perItems, maxItemsPerCall},
		{id.Server_ServerCapabilities_OperationLimits_MaxNodesPerBrowse, &l.perBrowse, maxNodesPerBrowse},
		{id.Server_ServerCapabilities_OperationLimits_MaxNodesPerTranslateBrowsePathsToNodeIDs, &l.perTranslate, maxPathsPerTranslate},
		{id.Server_ServerCapabilities_OperationLimits_MaxNodesPerHistoryReadData, &l.perHistoryRead, maxNodesPerHistoryRead},
		{id.Server_ServerCapabilities_MaxMonitoredItemsPerSubscription, &l.itemsPerSubscription, 0},
		{id.Server_ServerCapabilities_MaxSubscriptionsPerSession, &l.subscriptionsPerSession, 0},
		{id.Server_ServerCapabilities_MaxSessions, &l.sessions, 0},
		{id.Server_ServerCapabilities_MaxArrayLength, &l.arrayLength, 0},
		{id.Server_ServerCapabilities_MaxMonitoredItemsQueueSize, &l.queueSize, 0},
	}
	for lo := 0; lo < len(wanted); {
		hi := min(lo+l.perRead, len(wanted))
		var nodes []uint32
		for _, w := range wanted[lo:hi] {
			nodes = append(nodes, w.node)
		}
		values, err := s.readStandard(ctx, nodes...)
		if wantsFewer(err) && hi-lo > 1 {
			l.perRead = (hi - lo) / 2
			continue
		}
		if err != nil {
			return err
		}
		for i, v := range values {
			*wanted[lo+i].to = limit(v, wanted[lo+i].ours)
		}
		lo = hi
	}
	return nil
}

// readStandard reads the values of nodes of namespace 0.
func (s *session) readStandard(ctx context.Context, nodes ...uint32) ([]*ua.DataValue, error) {
	req := &ua.ReadRequest{TimestampsToReturn: ua.TimestampsToReturnNeither}
	for _, n := range nodes {
		req.NodesToRead = append(req.NodesToRead, valueOfNode(ua.NewNumericNodeID(0, n), ""))
	}
	res, err := call[*ua.ReadResponse](ctx, s, req)
	if err != nil {
		return nil, err
	}
	if len(res.Results) != len(nodes) {
		return nil, fmt.Errorf("%w: %d results for %d nodes", errMalformed, len(res.Results), len(nodes))
	}
	return res.Results, nil
}

// limit reads a limit; 0 and nothing both mean none (Part 5, 6.3.11), and give
// ours. An ours of 0 bounds nothing.
func limit(dv *ua.DataValue, ours int) int {
	if dv == nil || dv.Value == nil || isBad(dv.Status) {
		return ours
	}
	n, ok := dv.Value.Value().(uint32)
	switch {
	case !ok || n == 0:
		return ours
	case ours == 0:
		return int(min(n, 1<<30))
	}
	return int(min(n, uint32(ours)))
}

func textOf(dv *ua.DataValue) string {
	if dv == nil || dv.Value == nil || isBad(dv.Status) {
		return ""
	}
	text, _ := dv.Value.Value().(string)
	return text
}

// logLimits notes what was found out, for those who look why something is slow.
func (s *session) logLimits(log *slog.Logger) {
	l := &s.limits
	log.Debug("what the server takes at once", slog.String("product", l.product), slog.String("profile", l.profile),
		slog.Int("nodes_per_read", l.perRead), slog.Int("items_per_call", l.perItems),
		slog.Int("items_per_subscription", l.itemsPerSubscription), slog.Int("subscriptions_per_session", l.subscriptionsPerSession), slog.Int("sessions", l.sessions))
}
