package opcua

import (
	"context"
	"errors"
	"math"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

// A deadband is given to the server where it can have one (Part 4, 7.22.2), so
// that what is not worth sending does not come; the collector has the same one.
// In percent it is one of the node's EURange, where there is one (Part 8,
// 6.2); docs/decisions/0024-percent-deadband.md.

// filterFor returns the filter for a tag's item; nil: none.
func filterFor(t *protocols.Tag, it *item) *ua.ExtensionObject {
	if t.Deadband.Size <= 0 || it.plain || t.Enum != nil {
		return nil
	}
	f := &ua.DataChangeFilter{Trigger: ua.DataChangeTriggerStatusValue}
	switch {
	case t.Deadband.Percent && !it.ranged:
		return nil // of the last value sent: only we know that
	case t.Deadband.Percent:
		f.DeadbandType, f.DeadbandValue = uint32(ua.DeadbandTypePercent), t.Deadband.Size
	default:
		f.DeadbandType, f.DeadbandValue = uint32(ua.DeadbandTypeAbsolute), t.Deadband.Size/scaleOf(t)
	}
	if math.IsInf(f.DeadbandValue, 0) || math.IsNaN(f.DeadbandValue) {
		return nil
	}
	return ua.NewExtensionObject(f)
}

// scaleOf is what a change at the server is multiplied by.
func scaleOf(t *protocols.Tag) float64 {
	if !t.HasScale {
		return 1
	}
	return math.Abs(t.Scale)
}

func refusesFilter(status ua.StatusCode) bool {
	switch status & symbolMask {
	case ua.StatusBadMonitoredItemFilterUnsupported, ua.StatusBadMonitoredItemFilterInvalid, ua.StatusBadFilterNotAllowed,
		ua.StatusBadDeadbandFilterInvalid, ua.StatusBadEventFilterInvalid:
		return true
	}
	return false
}

// findRanges looks which of the tags with a deadband in percent have a range.
// Where that cannot be found out they have none.
func (p *publisher) findRanges(ctx context.Context, sub *subscription, handles []int) {
	var wanted []int
	for _, h := range handles {
		if band := sub.dev.Tags[sub.tags[h]].Deadband; band.Percent && band.Size > 0 {
			wanted = append(wanted, h)
		}
	}
	per := max(1, min(p.session.limits.perTranslate, p.session.limits.perRead))
	for lo := 0; lo < len(wanted); lo += per {
		if p.findSome(ctx, sub, wanted[lo:min(lo+per, len(wanted))]) != nil {
			return
		}
	}
}

// findSome does that for as many as go into one request.
func (p *publisher) findSome(ctx context.Context, sub *subscription, handles []int) error {
	req := &ua.TranslateBrowsePathsToNodeIDsRequest{}
	var asked []int
	for _, h := range handles {
		if node, ok := sub.addrs[h].nodeID(p.session.namespaces); ok {
			req.BrowsePaths = append(req.BrowsePaths, propertyPath(node, "EURange"))
			asked = append(asked, h)
		}
	}
	if len(asked) == 0 {
		return nil
	}
	res, err := call[*ua.TranslateBrowsePathsToNodeIDsResponse](ctx, p.session, req)
	if err != nil {
		return err
	}
	read := &ua.ReadRequest{TimestampsToReturn: ua.TimestampsToReturnNeither}
	var ranged []int
	for i, r := range res.Results {
		if i < len(asked) && r != nil && !isBad(r.StatusCode) && len(r.Targets) > 0 && r.Targets[0] != nil && r.Targets[0].TargetID != nil {
			sub.items[asked[i]].ranged = true
			ranged = append(ranged, asked[i])
			read.NodesToRead = append(read.NodesToRead, valueOfNode(r.Targets[0].TargetID.NodeID, ""))
		}
	}
	if len(ranged) == 0 {
		return nil
	}
	values, err := call[*ua.ReadResponse](ctx, p.session, read)
	if err != nil {
		return err
	}
	if len(values.Results) != len(ranged) {
		return errors.New("not one result for each node")
	}
	for i, dv := range values.Results {
		sub.items[ranged[i]].span = spanOf(dv)
	}
	return nil
}

func propertyPath(node *ua.NodeID, name string) *ua.BrowsePath {
	return &ua.BrowsePath{StartingNode: node, RelativePath: &ua.RelativePath{Elements: []*ua.RelativePathElement{{
		ReferenceTypeID: ua.NewNumericNodeID(0, id.HasProperty), IncludeSubtypes: true, TargetName: &ua.QualifiedName{Name: name},
	}}}}
}

// spanOf is the size of a Range; 0 if it is none.
func spanOf(dv *ua.DataValue) float64 {
	if dv == nil || dv.Value == nil || isBad(dv.Status) {
		return 0
	}
	object, ok := dv.Value.Value().(*ua.ExtensionObject)
	if !ok || object == nil {
		return 0
	}
	r, ok := object.Value.(*ua.Range)
	if !ok || !(r.High > r.Low) || math.IsInf(r.High-r.Low, 0) {
		return 0
	}
	return r.High - r.Low
}

// Bands returns, for the tags of d whose deadband in percent is of a range,
// its size in the tag's own units.
func (b *bus) Bands(d *protocols.Device) map[int]float64 {
	if b.session == nil || b.session.pub == nil {
		return nil
	}
	p := b.session.pub
	p.making.Lock()
	defer p.making.Unlock()
	bands := make(map[int]float64)
	for _, sub := range p.subs {
		if sub.dev != d {
			continue
		}
		for h := range sub.items {
			if it := &sub.items[h]; it.ranged {
				t := &d.Tags[sub.tags[h]]
				bands[int(sub.tags[h])] = it.span * t.Deadband.Size / 100 * scaleOf(t)
			}
		}
	}
	return bands
}
