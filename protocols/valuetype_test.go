package protocols_test

import (
	"testing"

	"millrace/protocols"
)

func TestAfterTransform(t *testing.T) {
	t.Parallel()
	raw := protocols.ValueType{Kind: protocols.KindUint, Bits: 16, Array: true}
	for _, c := range []struct {
		tag  protocols.Tag
		want protocols.ValueType
	}{
		{protocols.Tag{}, raw},
		{protocols.Tag{HasScale: true, Scale: 0.1}, protocols.ValueType{Kind: protocols.KindFloat64, Array: true}},
		{protocols.Tag{Enum: map[int64]string{1: "on"}}, protocols.ValueType{Kind: protocols.KindString}},
	} {
		if got := raw.AfterTransform(&c.tag); got != c.want {
			t.Errorf("%+v: %+v, want %+v", c.tag, got, c.want)
		}
	}
}
