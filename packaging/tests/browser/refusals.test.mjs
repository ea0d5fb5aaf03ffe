// Viewers who must not see the film: each is judged by the status that the player saw and by the record
// that the licence server kept, and no picture is shown.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { Browser } from "./browser.mjs";
import { Castellum } from "./castellum.mjs";
import { film, Theatre } from "./stage.mjs";

const PLAYS = [
  ["shaka", "dash", "cbcs"],
  ["dashjs", "dash", "cenc"],
  ["hlsjs", "hls", "cbcs"],
  ["shaka", "hls", "cbcs-identity"],
];

const past = () => Math.floor(Date.now() / 1000) - 3600;

// Whose token, what the player is told, what the record says.
const TOKENS = [
  ["no token", 401, "no_token", async () => null],
  ["an expired token", 403, "token_expired", (castellum) => castellum.mint({ exp: past(), iat: past() - 60 })],
  ["a forged token", 403, "signature_invalid", (castellum) => castellum.mint({}, { forged: true })],
  ["another title's token", 403, "asset_not_entitled", (castellum) => castellum.mint({ assets: ["another"] })],
];

// One after another: each looks at what its own requests added to the record.
describe("refusals", () => {
  let castellum, browser, theatre;

  before(async () => {
    castellum = await Castellum.demo();
    browser = await Browser.open("h2", castellum.said);
    theatre = await Theatre.open();
  });

  after(async () => {
    await browser?.close();
    await theatre?.close();
    await castellum?.stop();
  });

  for (const [player, form, policy] of PLAYS) {
    for (const [whose, status, reason, token] of TOKENS) {
      test(`${whose}: ${form} ${policy} in ${player}`, async () => {
        const before = (await castellum.decisions()).length;
        const wanted = film(castellum.stream(policy), form, await token(castellum));
        const performance = await theatre.perform(browser, player, wanted);
        const faults = await performance.fails();
        assert.ok(
          faults.some((fault) => fault.status === status),
          `the player saw ${status}: ${JSON.stringify(faults)}`,
        );
        const licenses = performance.journal.filter(({ url }) => castellum.isLicense(url));
        assert.deepEqual([...new Set(licenses.map((response) => response.status))], [status]);
        assert.equal((await performance.state()).frames, 0, "no picture");
        await performance.close();

        const decisions = (await castellum.decisions(before + licenses.length)).slice(before);
        assert.deepEqual([...new Set(decisions.map((decision) => decision.result))], ["refused"]);
        assert.deepEqual([...new Set(decisions.map((decision) => decision.reason))], [reason]);
      });
    }

    test(`a wrong key: ${form} ${policy} in ${player}`, async () => {
      const wanted = film(castellum.stream(policy), form, castellum.token);
      const performance = await theatre.perform(browser, player, wanted, { prepare: falsify(castellum) });
      const faults = await performance.fails();
      assert.ok(
        faults.some(({ what }) => UNDECODABLE.test(what)),
        `a decode error: ${JSON.stringify(faults)}`,
      );
      const licenses = performance.journal.filter(({ url }) => castellum.isLicense(url));
      assert.deepEqual([...new Set(licenses.map((response) => response.status))], [200]);
      await performance.close();
    });
  }
});

// 3 is MEDIA_ERR_DECODE, as the video element itself reports it.
const UNDECODABLE = /^MediaError 3 /;

/** Flips a bit of each key in each licence that reaches the page. */
function falsify(castellum) {
  return (page) =>
    page.route(castellum.said.license + "/license/**", async (route) => {
      const response = await route.fetch();
      const body = await response.body();
      if (response.status() !== 200) {
        return route.fulfill({ response });
      }
      if (!response.headers()["content-type"].includes("json")) {
        return route.fulfill({ response, body: flip(body) });
      }
      const license = JSON.parse(body);
      license.keys = license.keys.map((key) => ({
        ...key,
        k: flip(Buffer.from(key.k, "base64url")).toString("base64url"),
      }));
      return route.fulfill({ response, body: JSON.stringify(license) });
    });
}

function flip(bytes) {
  const wrong = Buffer.from(bytes);
  wrong[0] ^= 1;
  return wrong;
}
