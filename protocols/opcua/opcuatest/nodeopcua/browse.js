// A plant to look around in, for the tests of browsing: loops, a deep branch,
// names that are hard to write, several namespaces, units and ranges.
//
//   grow N     a folder Big with N variables v0, v1 …, if there is none yet
//   move NAME  the variable of /Objects/Plant/Moving is one with another NodeId
"use strict";

const { DataType, VariantArrayType, Range, standardUnits, StatusCodes } = require("node-opcua");

let space = null, plant = null, own = null, moving = null;

function options(o) {
  Object.assign(o.serverCapabilities.operationLimits, { maxNodesPerRead: 100, maxNodesPerBrowse: 10, maxNodesPerTranslateBrowsePathsToNodeIds: 50 });
  Object.assign(o.serverCapabilities, { maxBrowseContinuationPoints: 5 });
}

function build(given) {
  space = given.space;
  own = given.own;
  const other = space.registerNamespace("urn:millrace:other;50%");
  plant = own.addFolder(space.rootFolder.objects, { browseName: "Plant", nodeId: "s=Plant" });
  const double = { dataType: DataType.Double, value: { dataType: DataType.Double, value: 1.5 } };
  const lines = ["Line1", "Line2"].map((name) => {
    const line = own.addObject({ componentOf: plant, browseName: name, nodeId: `s=${name}` });
    const cell = own.addObject({ componentOf: line, browseName: "Cell", nodeId: `s=${name}.Cell` });
    own.addAnalogDataItem({
      componentOf: cell, browseName: "Temperature", nodeId: `s=${name}.Cell.Temperature`, description: `temperature of ${name}, 温度`,
      engineeringUnitsRange: new Range({ low: -40, high: 1250.5 }), engineeringUnits: standardUnits.degree_celsius, ...double,
    });
    own.addVariable({ componentOf: line, browseName: "Speed", nodeId: `s="${name}"."Speed"[2]`, description: "=cmd|' /C calc'!A0", ...double });
    return line;
  });
  // Round and round, and the same node by two ways.
  lines[0].addReference({ referenceType: "Organizes", nodeId: lines[1] });
  lines[1].addReference({ referenceType: "Organizes", nodeId: lines[0] });
  lines[1].addReference({ referenceType: "Organizes", nodeId: plant });
  lines[1].addReference({ referenceType: "Organizes", nodeId: space.rootFolder.objects });

  let at = plant;
  for (let i = 0; i < 30; i++) at = own.addObject({ componentOf: at, browseName: "deep" });
  own.addVariable({ componentOf: at, browseName: "Bottom", nodeId: "s=Bottom", ...double });

  const odd = own.addFolder(plant, { browseName: "odd names", nodeId: "s=odd" });
  for (const name of ["a/b", "2:x", "a&b", "温度 1号", "Axis.X", "[0:3]", "${env:HOME}"]) {
    own.addVariable({ componentOf: odd, browseName: name, nodeId: `s=odd ${name} `, ...double });
  }
  own.addVariable({ componentOf: odd, browseName: "guided", nodeId: "g=72962b91-fa75-4ae6-8d28-b404dc7daf64", ...double });
  own.addVariable({ componentOf: odd, browseName: "opaque", nodeId: "b=AQIDBA==", ...double });
  own.addVariable({ componentOf: odd, browseName: "numbered", nodeId: "i=7001", ...double });
  other.addVariable({ componentOf: odd, browseName: "elsewhere", nodeId: "s=elsewhere;i=1", ...double });
  // One name in two namespaces.
  own.addVariable({ componentOf: odd, browseName: "twin", nodeId: "s=twin", ...double });
  other.addVariable({ componentOf: odd, browseName: "twin", nodeId: "s=twin", ...double });

  const types = own.addFolder(plant, { browseName: "types", nodeId: "s=types" });
  const state = own.addEnumerationType({ browseName: "MachineState", enumeration: [{ displayName: "stopped", value: 0 }, { displayName: "running", value: 1 }] });
  own.addVariable({ componentOf: types, browseName: "State", nodeId: "s=State", dataType: state, value: { dataType: DataType.Int32, value: 1 } });
  own.addVariable({ componentOf: types, browseName: "Speeds", nodeId: "s=Speeds", dataType: DataType.UInt16, valueRank: 1, value: { dataType: DataType.UInt16, arrayType: VariantArrayType.Array, value: new Uint16Array([1, 2, 3, 4]) } });
  own.addVariable({ componentOf: types, browseName: "Grid", nodeId: "s=Grid", dataType: DataType.Int32, valueRank: 2, arrayDimensions: [2, 2], value: { dataType: DataType.Int32, arrayType: VariantArrayType.Matrix, dimensions: [2, 2], value: new Int32Array([1, 2, 3, 4]) } });
  own.addVariable({ componentOf: types, browseName: "Wait", nodeId: "s=Wait", dataType: "Duration", value: { dataType: DataType.Double, value: 100 } });
  own.addVariable({ componentOf: types, browseName: "Build", nodeId: "s=Build", dataType: "BuildInfo", value: { dataType: DataType.Null } });
  own.addVariable({ componentOf: types, browseName: "Secret", nodeId: "s=Secret", accessLevel: "CurrentWrite", userAccessLevel: "CurrentWrite", ...double });

  moving = own.addVariable({ componentOf: plant, browseName: "Moving", nodeId: "s=Moving1", ...double });
}

function commands() {
  return {
    grow(n) {
      const big = own.addFolder(plant, { browseName: "Big", nodeId: "s=Big" });
      for (let i = 0; i < Number(n); i++) {
        own.addVariable({ componentOf: big, browseName: `v${i}`, nodeId: `s=Big.v${i}`, dataType: DataType.Int32, value: { dataType: DataType.Int32, value: i } });
      }
    },
    move(name) {
      space.deleteNode(moving);
      moving = own.addVariable({ componentOf: plant, browseName: "Moving", nodeId: `s=${name}`, dataType: DataType.Double, value: { dataType: DataType.Double, value: 2.5 } });
    },
  };
}

module.exports = { options, build, commands };
