package opcua

import (
	"context"
	"maps"

	"github.com/gopcua/opcua/id"
	"github.com/gopcua/opcua/ua"

	"millrace/protocols"
)

// root returns which built-in type a data type is a kind of: the number of its
// NodeId, or that of Structure or Enumeration; 0: nobody knows.
func (b *typeBook) root(k nodeKey) uint32 {
	for range maxTypes {
		if basic(k) {
			return k.num
		}
		t := b.types[k]
		if t == nil {
			return 0
		}
		if t.base.isNull() {
			// A server that does not show what the type is derived from.
			switch t.def.(type) {
			case *ua.StructureDefinition:
				return id.Structure
			case *ua.EnumDefinition:
				return id.Enumeration
			}
			return 0
		}
		k = t.base
	}
	return 0
}

// finish makes shapes of what was gathered, and has gopcua keep the bodies of
// the structures.
func (g *gatherer) finish(ctx context.Context) error {
	b := g.book
	var undescribed []*dataType
	for _, t := range g.fresh {
		if t.whole && t.def == nil && t.encoding != nil && b.root(keyOf(t.id)) == id.Structure {
			undescribed = append(undescribed, t)
		}
	}
	entries, err := g.readDictionaries(ctx, undescribed)
	if err != nil {
		return err
	}
	for t, n := range entries {
		if s := b.dicts.shape(n); s != nil {
			t.shape = s
		}
	}
	ready := make(map[nodeKey]*shape)
	for _, t := range g.fresh {
		if b.root(keyOf(t.id)) != id.Structure || !t.whole {
			continue
		}
		s := b.structure(t)
		for _, encoding := range t.encodings() {
			if keepRaw(encoding) {
				ready[keyOf(encoding)] = s
			}
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.Copy(b.shapes, ready)
	return nil
}

// encodings are the NodeIds that values of the type come under.
func (t *dataType) encodings() []*ua.NodeID {
	var list []*ua.NodeID
	if t.encoding != nil {
		list = append(list, t.encoding)
	}
	if def, ok := t.def.(*ua.StructureDefinition); ok {
		if k := keyOf(def.DefaultEncodingID); !k.isNull() && (t.encoding == nil || k != keyOf(t.encoding)) {
			list = append(list, def.DefaultEncodingID)
		}
	}
	return list
}

// structure returns the layout of a structure.
func (b *typeBook) structure(t *dataType) *shape {
	if t.shape != nil {
		return t.shape
	}
	t.shape = &shape{name: t.name}
	def, ok := t.def.(*ua.StructureDefinition)
	if !ok {
		if t.encoding != nil {
			if goType := goTypeOf(t.encoding); goType != nil {
				t.shape.kind, t.shape.goType = shapeGo, goType
				return t.shape
			}
		}
		t.shape.why = "the server describes the structure " + t.name + " (" + nodeIDText(t.id) + ") neither by a DataTypeDefinition nor in a type dictionary"
		return t.shape
	}
	switch def.StructureType {
	case ua.StructureTypeStructure, ua.StructureTypeStructureWithSubtypedValues:
		t.shape.kind = shapeStruct
	case ua.StructureTypeStructureWithOptionalFields:
		t.shape.kind = shapeOptional
	case ua.StructureTypeUnion, ua.StructureTypeUnionWithSubtypedValues:
		t.shape.kind = shapeUnion
	default:
		*t.shape = *unknownShape(t.name, "the structure %s is of the kind %d, which Millrace does not know", t.name, def.StructureType)
		return t.shape
	}
	optional := 0
	for _, f := range def.Fields {
		if f == nil {
			continue
		}
		out := field{name: protocols.String(f.Name)}
		if why := b.compileField(&out, def, f); why != "" {
			*t.shape = *unknownShape(t.name, "the field %s of the structure %s %s", f.Name, t.name, why)
			return t.shape
		}
		if t.shape.kind == shapeOptional && f.IsOptional {
			if optional == 32 {
				*t.shape = *unknownShape(t.name, "the structure %s has more than 32 optional fields", t.name)
				return t.shape
			}
			out.mask = 1 << optional
			optional++
		}
		t.shape.fields = append(t.shape.fields, out)
	}
	return t.shape
}

// compileField makes a field of a structure's definition, or says why not.
func (b *typeBook) compileField(out *field, def *ua.StructureDefinition, f *ua.StructureField) string {
	out.shape = b.fieldShape(keyOf(f.DataType))
	if allowsSubtypes(def, f) {
		root := b.root(keyOf(f.DataType))
		switch root {
		case 0:
			return "is of a type that the server says nothing about: " + nodeIDText(f.DataType)
		case id.Structure:
			out.shape = &shape{kind: shapeAny}
		default:
			out.shape = &shape{kind: shapeBuiltin, builtin: ua.TypeIDVariant}
		}
	}
	variant := out.shape.kind == shapeBuiltin && out.shape.builtin == ua.TypeIDVariant
	switch {
	case f.ValueRank > protocols.MaxDepth:
		return "has too many dimensions"
	case f.ValueRank >= 1:
		out.rank = int(f.ValueRank)
	case f.ValueRank != -1 && !variant:
		// -2, -3 and 0 leave open whether it is an array at all (Part 3, 5.6.2).
		return "may be an array or not, the server does not say which"
	}
	return ""
}

// fieldShape returns how a data type is laid out where it is part of another.
func (b *typeBook) fieldShape(k nodeKey) *shape {
	root := b.root(k)
	t := b.types[k]
	switch root {
	case 0:
		return unknownShape("", "a type that the server says nothing about")
	case id.Structure:
		if t == nil || t.abstract {
			return &shape{kind: shapeAny}
		}
		if !t.whole && t.encoding != nil {
			return &shape{name: t.name, kind: shapeGo, goType: goTypeOf(t.encoding)}
		}
		return b.structure(t)
	case id.Enumeration:
		s := &shape{kind: shapeEnum, builtin: ua.TypeIDInt32}
		if t != nil {
			s.name, s.names = t.name, t.names
		}
		return s
	case id.BaseDataType, id.Number, id.Integer, id.UInteger:
		return &shape{kind: shapeBuiltin, builtin: ua.TypeIDVariant}
	}
	return &shape{kind: shapeBuiltin, builtin: ua.TypeID(root)}
}
