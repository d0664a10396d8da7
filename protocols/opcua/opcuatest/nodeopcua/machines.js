// A part of server.js: the nodesets of OPC UA for Devices and for Machinery.
// There are no machines at first.
//
//   machine NAME SERIAL   adds one to /Objects/Machines, with the variable s=NAME.Speed in it
//   device NAME SERIAL    adds one to /Objects/DeviceSet
//   typed NAME SERIAL     adds one to /Objects/Machines, and a device NAMEPLC to /Objects/DeviceSet, made of
//                         the types of the specifications; each has a variable s=NAME.Speed in it
//   gone NAME             takes one away
//   mute NAME             empties its texts
"use strict";

const { DataType, nodesets, coerceLocalizedText } = require("node-opcua");

let space = null, own = null;
const plates = {};

const text = (value) => ({ dataType: DataType.String, value });
const localized = (value) => ({ dataType: DataType.LocalizedText, value: coerceLocalizedText(value) });

function options(o) {
  o.nodeset_filename = [nodesets.standard, nodesets.di, nodesets.ia, nodesets.machinery];
  Object.assign(o, { buildInfo: { manufacturerName: "Server Works", productName: "Server Works UA", softwareVersion: "4.5.6" } });
}

function build(given) {
  space = given.space;
  own = given.own;
}

function plate(of, name, values) {
  const ns = space.getNamespaceIndex("http://opcfoundation.org/UA/DI/");
  plates[name] = Object.entries(values).map(([browseName, value]) =>
    own.addVariable({ propertyOf: of, browseName: { namespaceIndex: ns, name: browseName }, dataType: value.dataType, value }));
}

module.exports = {
  options, build,
  commands: () => ({
    machine(name, serial) {
      const folder = space.rootFolder.objects.getFolderElementByName("Machines", space.getNamespaceIndex("http://opcfoundation.org/UA/Machinery/"));
      const machine = own.addObject({ organizedBy: folder, browseName: name, nodeId: `s=${name}` });
      const cell = own.addObject({ componentOf: machine, browseName: "Cell" });
      own.addVariable({ componentOf: cell, browseName: "Speed", nodeId: `s=${name}.Speed`, dataType: DataType.Double, value: { dataType: DataType.Double, value: 1.5 } });
      const id = own.addObject({ componentOf: machine, browseName: { namespaceIndex: space.getNamespaceIndex("http://opcfoundation.org/UA/DI/"), name: "Identification" } });
      plate(id, name, {
        Manufacturer: localized("Acme 机床"), Model: localized("M 500"), ProductCode: text("AC-500"), SerialNumber: text(serial), SoftwareRevision: text("2.1"),
        YearOfConstruction: { dataType: DataType.UInt16, value: 2020 },
      });
    },
    device(name, serial) {
      const set = space.findNode(`ns=${space.getNamespaceIndex("http://opcfoundation.org/UA/DI/")};i=5001`);
      const device = own.addObject({ componentOf: set, browseName: name, nodeId: `s=${name}` });
      plate(device, name, {
        Manufacturer: localized("Drive Works"), Model: localized("unknown"), ProductCode: text("DW-1"), SerialNumber: text(serial),
        SoftwareRevision: text(""), RevisionCounter: { dataType: DataType.Int32, value: -1 }, HardwareRevision: text("C"),
      });
    },
    typed(name, serial) {
      const di = space.getNamespaceIndex("http://opcfoundation.org/UA/DI/"), machinery = space.getNamespaceIndex("http://opcfoundation.org/UA/Machinery/");
      const set = (of, values) => {
        for (const [browseName, value] of Object.entries(values)) of.getChildByName(browseName, di).setValueFromSource(value);
      };
      const speed = (of, n) => own.addVariable({ componentOf: of, browseName: "Speed", nodeId: `s=${n}.Speed`, dataType: DataType.Double, value: { dataType: DataType.Double, value: 1.5 } });
      const machine = own.addObject({ organizedBy: space.findNode(`ns=${machinery};i=1001`), browseName: name, nodeId: `s=${name}` });
      speed(machine, name);
      const id = space.findObjectType("MachineIdentificationType", machinery).instantiate({
        browseName: { namespaceIndex: di, name: "Identification" }, namespace: own, optionals: ["Model", "ProductCode", "SoftwareRevision", "DeviceClass"],
      });
      machine.addReference({ referenceType: "HasAddIn", nodeId: id });
      set(id, { Manufacturer: localized("Acme 机床"), Model: localized("M 500"), ProductCode: text("AC-500"), SerialNumber: text(serial), SoftwareRevision: text("2.1") });

      const type = own.addObjectType({ browseName: `${name}PLCType`, subtypeOf: space.findObjectType("DeviceType", di) });
      const plc = type.instantiate({ browseName: `${name}PLC`, nodeId: `s=${name}PLC`, componentOf: space.findNode(`ns=${di};i=5001`), optionals: ["Identification"] });
      speed(plc, `${name}PLC`);
      set(plc, {
        Manufacturer: localized("Control Works"), Model: localized("C 7"), SerialNumber: text("P-" + serial), HardwareRevision: text("3"), SoftwareRevision: text("V2.9"),
        DeviceRevision: text("1"), RevisionCounter: { dataType: DataType.Int32, value: -1 },
      });
      const group = plc.getChildByName("Identification", di);
      for (const browseName of ["Manufacturer", "SerialNumber"]) group.addReference({ referenceType: "Organizes", nodeId: plc.getChildByName(browseName, di) });
    },
    gone: (name) => space.deleteNode(space.findNode(`ns=${own.index};s=${name}`)),
    mute(name) {
      for (const v of plates[name]) {
        const { dataType } = v.readValue().value;
        if (dataType !== DataType.UInt16) v.setValueFromSource(dataType === DataType.LocalizedText ? localized("") : text(""));
      };
    },
  }),
};
