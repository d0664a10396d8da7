// A part of server.js: variables of the data types in types.xml.
"use strict";

const path = require("path");
const { nodesets, DataType, VariantArrayType, StatusCodes, coerceLocalizedText, coerceQualifiedName, coerceNodeId } = require("node-opcua");

const uri = "urn:millrace:types";

exports.options = (options) => {
  options.nodeset_filename = [nodesets.standard, path.join(__dirname, "types.xml")];
};

exports.build = ({ space, add, values }) => {
  const ns = space.getNamespaceIndex(uri);
  const type = (i) => coerceNodeId(`ns=${ns};i=${i}`);
  const make = (i, fields) => space.constructExtensionObject(type(i), fields);
  const structure = (name, i, value, more) => add(name, { dataType: type(i), value: { dataType: DataType.ExtensionObject, value }, ...more });
  const state = (name, value, more) => (values[name] = add(name, { dataType: type(3001), value: { dataType: DataType.Int32, value }, ...more }));

  state("State", 1);
  state("Fault", 7);
  state("Unlisted", 5);
  state("States", new Int32Array([0, 7]), { valueRank: 1, value: { dataType: DataType.Int32, arrayType: VariantArrayType.Array, value: new Int32Array([0, 7]) } });
  structure("Point", 3002, make(3002, { x: 1.5, y: -2 }));
  structure("Point3", 3002, make(3003, { x: 1, y: 2, z: 0.1 })); // declared as what it is derived from
  structure("NaNPoint", 3002, make(3002, { x: NaN, y: 0 }));
  structure("Points", 3002, null, {
    valueRank: 1,
    value: { dataType: DataType.ExtensionObject, arrayType: VariantArrayType.Array, value: [make(3002, { x: 1, y: 2 }), make(3002, { x: 3, y: 4 })] },
  });
  structure("Axis", 3004, make(3004, {
    name: "轴一", position: { x: 0.1, y: 1e300 }, targets: [{ x: 1, y: 2 }, { x: 3, y: 4 }], state: 7, states: [0, 1],
    signed: [0x80000000, 0], unsigned: [0xffffffff, 0xffffffff], when: new Date("2026-11-23T12:34:56.789Z"), never: null,
    id: "72962B91-FA75-4AE6-8D28-B404DC7DAF63", raw: Buffer.from([0, 255]), text: coerceLocalizedText("läuft"), tag: coerceQualifiedName({ namespaceIndex: 1, name: "Axis" }),
    node: coerceNodeId("ns=1;s=Motor"), status: StatusCodes.BadDeviceFailure, any: { dataType: DataType.UInt32, arrayType: VariantArrayType.Array, value: new Uint32Array([1, 4294967295]) },
    cycle: 12.5, flags: [true, false], range: { low: -1, high: 1 },
    unit: { namespaceUri: "http://www.opcfoundation.org/UA/units/un/cefact", unitId: 4408652, displayName: coerceLocalizedText("°C"), description: coerceLocalizedText("degree Celsius") },
  }));
  structure("Order", 3005, make(3005, { number: 17, customer: "客户" }));
  structure("Bare", 3005, make(3005, { number: 18 }));
  structure("Measured", 3006, make(3006, { measured: 2.5 }));
  structure("Failure", 3006, make(3006, { failure: "too hot" }));
  structure("NoStructure", 3002, null);
  add("Anything", { dataType: "Structure", value: { dataType: DataType.ExtensionObject, value: make(3003, { x: 7, y: 8, z: 9 }) } });
  add("Cube", {
    dataType: DataType.Double, valueRank: 3, arrayDimensions: [2, 1, 3],
    value: { dataType: DataType.Double, arrayType: VariantArrayType.Matrix, dimensions: [2, 1, 3], value: new Float64Array([1, 2, 3, 4, 5, 6]) },
  });
  add("Texts", {
    dataType: DataType.String, valueRank: 2, arrayDimensions: [2, 2],
    value: { dataType: DataType.String, arrayType: VariantArrayType.Matrix, dimensions: [2, 2], value: ["a", "b", "c", "d"] },
  });
};

exports.commands = ({ values }) => ({
  state: (name, value) => values[name].setValueFromSource({ dataType: DataType.Int32, value: Number(value) }, StatusCodes.Good, new Date()),
});
