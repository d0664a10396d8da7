// A part of server.js for the bench: many items that count. 100 of them,
// Early00000 and on, are there from the start, like those of the first command.
//
//   looks N      makes Look00000 … Look(N-1): each is one more whenever it is
//                looked at, so that what is sampled has no holes, however busy
//                this process is; says the index of their namespace
//   counters N   makes Counter00000 …: each goes up by one with each tick
//   tick MS      starts ticking; 0 ends it
//   sent         says how often Looks were looked at, and how many ticks there were
"use strict";

const { DataType, Variant, StatusCodes } = require("node-opcua");

let make = null, namespace = 0, looks = 0, ticks = 0, ticking = null;
const counters = [];

const name = (what, i) => what + String(i).padStart(5, "0");

function addLooks(what, n) {
  for (let i = 0; i < n; i++) {
    let count = 0;
    const get = () => { looks++; return new Variant({ dataType: DataType.Double, value: ++count }); };
    make(name(what, i), { dataType: DataType.Double, value: { get } });
  }
}

module.exports = {
  options(options) {
    // Room for those that a client which does not go on with them leaves behind.
    options.serverCapabilities.maxSubscriptions = options.serverCapabilities.maxSessions = 1000;
    options.serverCapabilities.operationLimits = { maxNodesPerRead: 1000, maxMonitoredItemsPerCall: 1000 };
  },
  build({ own, add }) {
    make = add;
    namespace = own.index;
    addLooks("Early", 100);
  },
  commands() {
    return {
      looks(n) {
        addLooks("Look", Number(n));
        return namespace;
      },
      counters(n) {
        for (let i = 0; i < Number(n); i++) counters.push(make(name("Counter", i), { dataType: DataType.Double, value: { dataType: DataType.Double, value: 0 } }));
      },
      tick(every) {
        clearInterval(ticking);
        ticking = null;
        if (Number(every) === 0) return;
        ticking = setInterval(() => {
          ticks++;
          const now = new Date();
          for (const c of counters) c.setValueFromSource({ dataType: DataType.Double, value: ticks }, StatusCodes.Good, now);
        }, Number(every));
      },
      sent: () => ({ looks, ticks }),
    };
  },
};
