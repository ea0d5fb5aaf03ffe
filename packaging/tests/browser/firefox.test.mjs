// Tokens of every shape in Firefox, and what its player is told of those that do not do.
//
// What this cannot catch: HTTP/2, HTTP/3 and TLS in Firefox. Streams and refusals of each kind are Chromium's part
// (matrix.test.mjs, refusals.test.mjs, limits.test.mjs).

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { after, before, describe, test } from "node:test";
import path from "node:path";

import { Appliance } from "./appliance.mjs";
import { Firefox } from "./firefox.mjs";
import { everyShape, LICENSE, plays, titleOf } from "./shapes.mjs";
import { film, Theatre } from "./stage.mjs";

const PICTURES = path.join(import.meta.dirname, "../../../target/pictures");

// shaka-player meets both schemes in each shape.
const CASES = everyShape([
  ["shaka", "dash"],
  ["shaka", "dash"],
  ["hlsjs", "hls"],
]);

const past = () => Math.floor(Date.now() / 1000) - 3600;

// What the player is told, and why it was so by the record.
const REFUSALS = [
  { what: "another title's token", code: "not-entitled", reason: "asset_not_entitled", claims: () => ({ assets: ["another"] }) },
  { what: "an expired token", code: "token-expired", reason: "token_expired", claims: () => ({ iat: past() - 60, exp: past() }) },
];

describe("Firefox", { concurrency: 2 }, () => {
  const issuers = CASES.map(({ issuer }) => issuer);
  const [shop] = issuers;
  let appliance, browser, theatre;

  before(async () => {
    appliance = await Appliance.start(issuers, { license: LICENSE });
    browser = await Firefox.open();
    theatre = await Theatre.open();
    await mkdir(PICTURES, { recursive: true });
  });

  after(async () => {
    await browser?.close();
    await theatre?.close();
    await appliance?.stop();
  });

  for (const one of CASES) {
    test(titleOf(one), async () => {
      const picture = path.join(PICTURES, `firefox-${one.player}-${one.form}-${one.policy}.png`);
      await plays({ appliance, browser, theatre }, one, picture);
    });
  }

  for (const { what, code, reason, claims } of REFUSALS) {
    test(`${what}: dash cbcs in shaka`, async () => {
      const stream = appliance.stream("cbcs");
      const token = shop.token({ asset: stream.asset }, claims());
      const performance = await theatre.perform(browser, "shaka", film(stream, "dash", token));
      const faults = await performance.fails();
      const told = faults.find(({ status }) => status === 403);
      assert.equal(told?.code, code, `the player read the problem: ${JSON.stringify(faults)}`);
      const { frames, keys } = await performance.state();
      assert.equal(frames, 0, "no picture");
      assert.deepEqual(keys, [], "no key");
      await performance.close();
      await appliance.decided({ issuer: shop.name, result: "refused", reason });
    });
  }
});
