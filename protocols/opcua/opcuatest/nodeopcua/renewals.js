// The part "renewals" tells how often the tokens of secure channels were
// renewed.
//
//   renewals    says how often, of the channel where it was most often
"use strict";

module.exports = {
  commands({ server }) {
    const tokens = (channel) => channel.securityTokenCount ?? 1;
    return {
      renewals: () => Math.max(0, ...server.endpoints.flatMap((e) => e.getChannels().map((c) => tokens(c) - 1))),
    };
  },
};
