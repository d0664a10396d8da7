// A part of server.js: variables with a history.
//
//   Historized, Second   Int32, with a history of MAXONLINE values
//   Plain                Int32, changes with Historized, has no history
//
//   burst N EVERY [MS]   sets Historized (and Plain, and every fifth time Second) to
//                        the next N numbers, one every EVERY ms; done when it is
//   begin N EVERY        the same, in the background
//   logout               ends all sessions with their subscriptions
//   stamp VALUE MS       sets Historized to VALUE with the source time MS
//   future N EVERY       puts the numbers up to N into the history of Huge, one every EVERY ms from now
//                        on, and makes the last its value
//   forget               empties the history
//   limit NODES          how many nodes a HistoryRead may have
//   points N             from now on N continuation points can be used, then they fail; -1: no limit
//   reads                says how many HistoryReads there were
"use strict";

const { DataType, StatusCodes, DataValue, Variant } = require("node-opcua");

const MAXONLINE = 200000;
let vars = {}, count = 0, reads = 0, points = -1;

exports.options = (options) => {
  // Broken connections leave theirs behind for a minute.
  Object.assign(options.serverCapabilities, { maxSessions: 1000, maxSubscriptions: 2000, maxHistoryContinuationPoints: 10, minSupportedSampleRate: 0 });
};

exports.build = ({ server, space, add }) => {
  for (const name of ["Historized", "Second", "Plain", "Huge"]) {
    vars[name] = add(name, { dataType: DataType.Int32, minimumSamplingInterval: 0, value: { dataType: DataType.Int32, value: 0 } });
  }
  for (const name of ["Historized", "Second", "Huge"]) space.installHistoricalDataNode(vars[name], { maxOnlineValues: MAXONLINE });
  // Items see each change, not what there is when a busy process looks.
  const create = server._on_CreateMonitoredItemsRequest.bind(server);
  server._on_CreateMonitoredItemsRequest = (message, channel) => {
    for (const item of message.request.itemsToCreate || []) item.requestedParameters.samplingInterval = 0;
    return create(message, channel);
  };
  const read = server._on_HistoryReadRequest.bind(server);
  server._on_HistoryReadRequest = (message, channel) => {
    reads++;
    for (const n of message.request.nodesToRead || []) {
      if (points >= 0 && n.continuationPoint && points-- <= 0) {
        points = 0;
        n.continuationPoint = Buffer.from("spoilt");
      }
    }
    return read(message, channel);
  };
};

const set = (name, value, at) => vars[name].setValueFromSource({ dataType: DataType.Int32, value }, StatusCodes.Good, at || new Date());

const burst = (n, every) => new Promise((done) => {
    let left = Number(n), last = 0;
    const timer = setInterval(() => {
      const at = new Date();
      if (at.getTime() === last) return; // each has a time of its own
      last = at.getTime();
      count++;
      set("Historized", count, at);
      set("Plain", count, at);
      if (count % 5 === 0) set("Second", count, at);
      if (--left === 0) { clearInterval(timer); done(count); }
    }, Number(every));
  });

exports.commands = ({ server }) => ({
  burst,
  begin: (n, every) => { burst(n, every); },
  logout: () => {
    for (const session of Object.values(server.engine._sessions)) server.engine.closeSession(session.authenticationToken, true, "Terminated");
  },
  stamp: (value, ms) => set("Historized", Number(value), new Date(Number(ms))),
  future: (n, every) => {
    const now = Date.now();
    for (let i = 1; i <= Number(n); i++) {
      const at = new Date(now + i * Number(every));
      if (i === Number(n)) { set("Huge", i, at); break; }
      vars.Huge.varHistorian.push(new DataValue({ value: new Variant({ dataType: DataType.Int32, value: i }), sourceTimestamp: at, serverTimestamp: at, statusCode: StatusCodes.Good }));
    }
    return now;
  },
  forget: () => { for (const v of Object.values(vars)) while (v.varHistorian && v.varHistorian._timeline.length > 0) v.varHistorian._timeline.shift(); },
  limit: (n) => { server.engine.serverCapabilities.operationLimits.maxNodesPerHistoryReadData = Number(n); },
  points: (n) => { points = Number(n); },
  reads: () => reads,
});
