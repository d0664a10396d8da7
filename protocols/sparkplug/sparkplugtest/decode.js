// Decodes payloads by sparkplug-payload's own protobuf classes, each a line in
// hex on standard input, and writes each as a line of JSON. Its function
// decodePayload is not used: it takes a UInt32 in int_value for null, and
// everything that has no data type, as in data (see the reference).
"use strict";
const readline = require("readline");
const proto = require("sparkplug-payload/lib/sparkplugPayloadProto.js");
const Payload = proto.org.eclipse.tahu.protobuf.Payload;

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  let out;
  try {
    const message = Payload.decode(Buffer.from(line, "hex"));
    out = Payload.toObject(message, { longs: String, bytes: String, oneofs: true });
  } catch (err) {
    out = { error: String(err) };
  }
  process.stdout.write(JSON.stringify(out) + "\n");
});
