// An OPC UA server that is neither ours nor gopcua's, for the tests of
// protocols/opcua. It prints one line of JSON when it is ready, obeys one
// command a line on standard input, and ends when that is closed.
//
//   node server.js DIR [PORT [FLAG...]]  DIR: where its certificates are kept;
//                                        strict: it trusts no client that it does not know;
//                                        any other FLAG is a part: FLAG.js beside this file
//
// A part is a module with any of: options(options, dir), which changes what
// the server is made with; build({server, space, own, folder, add, values}),
// which adds nodes; commands({server, values}), which returns more commands,
// by name (they may be async; what they return is printed as "said").
//
//   counter start MS | counter stop    Counter goes up by one every MS
//   drop                               cuts all connections
//   set NAME VALUE                     sets one of the Int32 variables
"use strict";

const path = require("path");
const readline = require("readline");
const {
  OPCUAServer, OPCUACertificateManager, SecurityPolicy, MessageSecurityMode, DataType, VariantArrayType, Variant, StatusCodes,
  coerceNodeId, resolveNodeId, coerceLocalizedText, coerceQualifiedName,
} = require("node-opcua");

const dir = process.argv[2];
const port = Number(process.argv[3] || 0);
const flags = process.argv.slice(4);
const strict = flags.includes("strict");
const parts = flags.filter((f) => f !== "strict").map((f) => require(`./${f}.js`));
const ns = "urn:millrace:nodeopcua";

// Every scalar type, with the values at its edges.
const scalars = {
  Boolean: [DataType.Boolean, true],
  SByte: [DataType.SByte, -128],
  Byte: [DataType.Byte, 255],
  Int16: [DataType.Int16, -32768],
  UInt16: [DataType.UInt16, 65535],
  Int32: [DataType.Int32, -2147483648],
  UInt32: [DataType.UInt32, 4294967295],
  Int64: [DataType.Int64, [0x80000000, 0]], // high word, low word: the smallest
  UInt64: [DataType.UInt64, [0xffffffff, 0xffffffff]],
  Float: [DataType.Float, 0.1],
  Double: [DataType.Double, -1e300],
  NaN: [DataType.Double, NaN],
  Infinity: [DataType.Float, Infinity],
  String: [DataType.String, "注塑机 1号 – Größe"],
  Empty: [DataType.String, ""],
  DateTime: [DataType.DateTime, new Date("2026-11-23T12:34:56.789Z")],
  Guid: [DataType.Guid, "72962B91-FA75-4AE6-8D28-B404DC7DAF63"],
  ByteString: [DataType.ByteString, Buffer.from([0, 1, 254, 255])],
  XmlElement: [DataType.XmlElement, "<a>1</a>"],
  NodeId: [DataType.NodeId, coerceNodeId("ns=1;s=Motor")],
  StatusCode: [DataType.StatusCode, StatusCodes.BadDeviceFailure],
  QualifiedName: [DataType.QualifiedName, coerceQualifiedName({ namespaceIndex: 1, name: "Axis" })],
  LocalizedText: [DataType.LocalizedText, coerceLocalizedText("läuft")],
};

const arrays = {
  Booleans: [DataType.Boolean, [true, false, true]],
  Bytes: [DataType.Byte, new Uint8Array([1, 2, 255])],
  Int16s: [DataType.Int16, new Int16Array([-1, 0, 1])],
  UInt32s: [DataType.UInt32, new Uint32Array([10, 20, 30, 40, 4294967295])],
  Doubles: [DataType.Double, new Float64Array([0.5, -0.25])],
  Strings: [DataType.String, ["a", "", "ü"]],
  Int64s: [DataType.Int64, [[0xffffffff, 0xffffffff], [0, 1]]],
  NoElements: [DataType.Int32, new Int32Array([])],
};

// Values with a status of their own.
const statuses = {
  Uncertain: StatusCodes.UncertainLastUsableValue,
  SubNormal: StatusCodes.UncertainSubNormal,
  BadDevice: StatusCodes.BadDeviceFailure,
  BadSensor: StatusCodes.BadSensorFailure,
  BadWaiting: StatusCodes.BadWaitingForInitialData,
  GoodOverride: StatusCodes.GoodLocalOverride,
};

async function main() {
  const certificates = new OPCUACertificateManager({ rootFolder: path.join(dir, strict ? "strict" : "pki"), automaticallyAcceptUnknownCertificate: !strict });
  await certificates.initialize();
  const options = {
    port, host: "127.0.0.1", hostname: "127.0.0.1", resourcePath: "/UA/Test",
    serverCertificateManager: certificates, userCertificateManager: certificates,
    securityPolicies: [SecurityPolicy.None, SecurityPolicy.Basic256Sha256, SecurityPolicy.Aes128_Sha256_RsaOaep, SecurityPolicy.Aes256_Sha256_RsaPss],
    securityModes: [MessageSecurityMode.None, MessageSecurityMode.Sign, MessageSecurityMode.SignAndEncrypt],
    allowAnonymous: true,
    userManager: { isValidUser: (user, password) => user === "operator" && password === "sécret" },
    serverInfo: { applicationUri: "urn:millrace:nodeopcua:server", applicationName: { text: "nodeopcua" } },
    serverCapabilities: {
      maxSessions: 100,
      operationLimits: { maxNodesPerRead: 20, maxMonitoredItemsPerCall: 15 },
    },
  };
  for (const part of parts) part.options?.(options, dir);
  const server = new OPCUAServer(options);
  await server.initialize();
  const values = build(server);
  await server.start();
  listen(server, values);
  const endpoint = server.endpoints[0];
  console.log(JSON.stringify({ port: endpoint.port, path: "/UA/Test" }));
}

function build(server) {
  const space = server.engine.addressSpace;
  const own = space.registerNamespace(ns);
  const folder = own.addFolder(space.rootFolder.objects, { browseName: "Test" });
  const add = (name, more) => own.addVariable({ componentOf: folder, browseName: name, nodeId: `s=${name}`, minimumSamplingInterval: 10, ...more });
  for (const [name, [dataType, value]] of Object.entries(scalars)) {
    add(name, { dataType, value: { dataType, arrayType: VariantArrayType.Scalar, value } });
  }
  for (const [name, [dataType, value]] of Object.entries(arrays)) {
    add(name, { dataType, valueRank: 1, value: { dataType, arrayType: VariantArrayType.Array, value } });
  }
  add("Matrix", {
    dataType: DataType.Int32, valueRank: 2, arrayDimensions: [2, 2],
    value: { dataType: DataType.Int32, arrayType: VariantArrayType.Matrix, dimensions: [2, 2], value: new Int32Array([1, 2, 3, 4]) },
  });
  for (const [name, status] of Object.entries(statuses)) {
    const v = add(name, { dataType: DataType.Double });
    v.setValueFromSource({ dataType: DataType.Double, value: 1.5 }, status, new Date("2026-01-02T03:04:05.678Z"));
  }
  add("Null", { dataType: DataType.Int32 }).setValueFromSource({ dataType: DataType.Null }, StatusCodes.Good);
  add("WriteOnly", { dataType: DataType.Int32, accessLevel: "CurrentWrite", userAccessLevel: "CurrentWrite", value: { dataType: DataType.Int32, value: 1 } });
  add("Structure", { dataType: "BuildInfo", value: { dataType: DataType.ExtensionObject, value: space.constructExtensionObject(resolveNodeId("BuildInfo"), { productName: "x" }) } });
  own.addVariable({ componentOf: folder, browseName: "Guided", nodeId: "g=72962b91-fa75-4ae6-8d28-b404dc7daf63", dataType: "Int32", value: { dataType: DataType.Int32, value: 42 } });
  own.addVariable({ componentOf: folder, browseName: "Opaque", nodeId: "b=AQID", dataType: "Int32", value: { dataType: DataType.Int32, value: 43 } });
  own.addVariable({ componentOf: folder, browseName: "Numbered", nodeId: "i=1001", dataType: "Int32", value: { dataType: DataType.Int32, value: 44 } });
  own.addVariable({ componentOf: folder, browseName: "Bracket", nodeId: "s=Bracket[2]", dataType: "Int32", value: { dataType: DataType.Int32, value: 45 } });
  // One more each time it is looked at: what one monitored item samples has no
  // holes, however busy this process is.
  let looks = 0;
  add("Samples", { dataType: DataType.Int32, value: { get: () => new Variant({ dataType: DataType.Int32, value: ++looks }) } });
  const values = {
    Counter: add("Counter", { dataType: DataType.Int32, value: { dataType: DataType.Int32, value: 0 } }),
    Level: add("Level", { dataType: DataType.Int32, value: { dataType: DataType.Int32, value: 0 } }),
  };
  for (const part of parts) part.build?.({ server, space, own, folder, add, values });
  return values;
}

function listen(server, values) {
  let counting = null, count = 0;
  const set = (name, value) => values[name].setValueFromSource({ dataType: DataType.Int32, value }, StatusCodes.Good, new Date());
  const commands = {
    counter(what, every) {
      clearInterval(counting);
      if (what === "start") counting = setInterval(() => set("Counter", ++count), Number(every));
    },
    drop() {
      for (const endpoint of server.endpoints) endpoint.abruptlyInterruptChannels();
    },
    set: (name, value) => set(name, Number(value)),
  };
  for (const part of parts) Object.assign(commands, part.commands?.({ server, values }));
  const lines = readline.createInterface({ input: process.stdin });
  lines.on("line", async (line) => {
    const [name, ...args] = line.trim().split(/\s+/);
    const said = commands[name] ? await commands[name](...args) : undefined;
    console.log(JSON.stringify({ done: line, said }));
  });
  lines.on("close", () => process.exit(0));
}

main().catch((e) => { console.error(e); process.exit(1); });
