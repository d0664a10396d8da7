// A part of server.js: all security policies, the deprecated ones too, and
// users with certificates, of which it trusts none that it was not told of.
//
//   trustuser HEX     accepts that certificate (DER) as a user's
//   trustclient HEX   accepts it as a client application's (with strict)
//   trustissuer HEX CRL   accepts the clients of that authority; CRL: its revocation list, in hex
"use strict";

const path = require("path");
const { OPCUACertificateManager, SecurityPolicy, UserTokenType } = require("node-opcua");

let users;

module.exports = {
  options(options, dir) {
    options.securityPolicies = [
      SecurityPolicy.None, SecurityPolicy.Basic128Rsa15, SecurityPolicy.Basic256, SecurityPolicy.Basic256Sha256,
      SecurityPolicy.Aes128_Sha256_RsaOaep, SecurityPolicy.Aes256_Sha256_RsaPss,
    ];
    users = new OPCUACertificateManager({ rootFolder: path.join(dir, `users-${process.pid}`), automaticallyAcceptUnknownCertificate: false });
    options.userCertificateManager = users;
    options.userTokenTypes = [UserTokenType.Anonymous, UserTokenType.UserName, UserTokenType.Certificate];
  },
  commands({ server }) {
    return {
      trustuser: (hex) => users.trustCertificate(Buffer.from(hex, "hex")),
      trustclient: (hex) => server.serverCertificateManager.trustCertificate(Buffer.from(hex, "hex")),
      trustissuer: async (hex, crl) => {
        await server.serverCertificateManager.addIssuer(Buffer.from(hex, "hex"), false, true);
        await server.serverCertificateManager.addRevocationList(Buffer.from(crl, "hex"));
      },
    };
  },
};
