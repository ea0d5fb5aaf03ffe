// Whoever says what a viewer is entitled to, in each shape of token and by each algorithm.

import { constants, createHmac, generateKeyPairSync, randomBytes, randomUUID, sign } from "node:crypto";
import { writeFile } from "node:fs/promises";
import path from "node:path";

const AUDIENCE = "castellum";
const LIFE_S = 3600;

const signer = (type, options, how) => () => {
  const { publicKey, privateKey } = generateKeyPairSync(type, options);
  return {
    text: publicKey.export({ type: "spki", format: "pem" }),
    sign: (data) => sign(how.digest, data, { key: privateKey, ...how.options }),
  };
};
// RFC 7518 3.4: a signature of ECDSA is r and s, not DER.
const P1363 = { dsaEncoding: "ieee-p1363" };
const PSS = { padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: constants.RSA_PSS_SALTLEN_DIGEST };
const RSA = { modulusLength: 2048 };

const KEYS = {
  HS256: () => {
    const text = randomBytes(32).toString("hex");
    return { text, sign: (data) => createHmac("sha256", text).update(data).digest() };
  },
  ES256: signer("ec", { namedCurve: "P-256" }, { digest: "sha256", options: P1363 }),
  ES384: signer("ec", { namedCurve: "P-384" }, { digest: "sha384", options: P1363 }),
  EdDSA: signer("ed25519", {}, { digest: null, options: {} }),
  RS256: signer("rsa", RSA, { digest: "sha256", options: {} }),
  PS256: signer("rsa", RSA, { digest: "sha256", options: PSS }),
};

export const ALGORITHMS = Object.keys(KEYS);

/** What a token of each shape says of keys and of when it ends, and what is configured of its issuer besides the key. */
const SHAPES = {
  native: {
    table: (issuer) => `issuer = "${issuer.iss}"\naudience = "${AUDIENCE}"`,
    claims: (issuer, { asset, until }) => ({ iss: issuer.iss, aud: AUDIENCE, exp: until, assets: [asset] }),
  },
  // Nothing in its claims says whose it is: the header's `kid` does.
  "dash-if": {
    table: (issuer) => `shape = "dash-if"\nkey_id = "${issuer.keyId}"`,
    header: (issuer) => ({ kid: issuer.keyId }),
    claims: (_, { keyIds, until }) => ({ exp: until, authorized_kids: keyIds }),
  },
  "axinom-stored": axinom(({ keyIds }) => ({ stored: keyIds.map((id) => ({ id })) })),
  "axinom-inline": axinom(({ keyIds }) => ({ inline: keyIds.map((id) => ({ id })) })),
  "axinom-request": axinom(() => ({ license_request: {} })),
};

function axinom(sources) {
  return {
    table: (issuer) => `shape = "axinom"\nkey_id = "${issuer.keyId}"`,
    claims: (issuer, subject) => ({
      version: 1,
      com_key_id: issuer.keyId,
      begin_date: date(subject.until - 2 * LIFE_S),
      expiration_date: date(subject.until),
      message: { type: "entitlement_message", version: 2, content_keys_source: sources(subject) },
    }),
  };
}

/** Without fractions of a second. */
const date = (seconds) => new Date(seconds * 1000).toISOString().replace(".000", "");

export const SHAPE_NAMES = Object.keys(SHAPES);

export class Issuer {
  constructor(shape, algorithm) {
    this.shape = SHAPES[shape];
    this.algorithm = algorithm;
    this.key = KEYS[algorithm]();
    this.name = `${shape}-${algorithm}`;
    this.iss = `https://${this.name.toLowerCase()}.example`;
    this.keyId = randomUUID();
  }

  /** Writes the key that verifies its tokens; returns the file. */
  async write(folder) {
    const file = path.join(folder, `${this.name}.key`);
    await writeFile(file, this.key.text, { mode: 0o600 });
    return file;
  }

  table(file) {
    return (
      `[[license.issuers]]\nname = "${this.name}"\nalgorithm = "${this.algorithm}"\n` +
      `key_file = ${JSON.stringify(file)}\n${this.shape.table(this)}\n`
    );
  }

  /** A token for these keys of an asset, good for an hour, with other claims where `more` has them. */
  token({ asset, keyIds }, more = {}) {
    const until = Math.floor(Date.now() / 1000) + LIFE_S;
    const claims = { ...this.shape.claims(this, { asset, keyIds, until }), ...more };
    const header = { alg: this.algorithm, typ: "JWT", ...this.shape.header?.(this) };
    const parts = [header, claims];
    const signed = parts.map((part) => Buffer.from(JSON.stringify(part)).toString("base64url")).join(".");
    return `${signed}.${Buffer.from(this.key.sign(Buffer.from(signed))).toString("base64url")}`;
  }
}
