// Viewers who may not watch now: the player sees why, by status and by the problem that came with it, across origins.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { Appliance } from "./appliance.mjs";
import { Browser } from "./browser.mjs";
import { Issuer } from "./issuer.mjs";
import { film, Theatre } from "./stage.mjs";

const PLAYERS = [
  ["shaka", "dash", "cbcs"],
  ["dashjs", "dash", "cenc"],
  ["hlsjs", "hls", "cbcs"],
];

const RATE = 10;
const past = () => Math.floor(Date.now() / 1000) - 3600;
const device = (name) => ({ "X-Device-Id": name });

// What the player is told, why it was so by the record, and how it comes to that: what is done before, the token's other
// claims, and what stands between player and server.
const CASES = [
  { what: "a licence that the token does not allow", status: 403, code: "not-entitled", reason: "asset_not_entitled", claims: () => ({ assets: ["another"] }) },
  { what: "an expired licence", status: 403, code: "not-entitled", reason: "no_longer_available", claims: () => ({ policy: "ended" }) },
  { what: "an expired token", status: 403, code: "token-expired", reason: "token_expired", claims: () => ({ iat: past() - 60, exp: past() }) },
  { what: "no token", status: 401, code: "token-missing", reason: "no_token", claims: () => null },
  { what: "one stream too many", status: 403, code: "stream-limit", reason: "stream_limit", again: true, before: (ask) => ask("tv", { jti: "another" }) },
  { what: "one device too many", status: 403, code: "device-limit", reason: "device_limit", before: (ask) => ask("phone", {}) },
  { what: "another country", status: 403, code: "location-not-allowed", reason: "country_not_allowed", country: "NO" },
  {
    what: "too many requests",
    status: 429,
    code: "too-many-requests",
    reason: "rate_of_subject",
    again: true,
    before: (ask) => Promise.all(Array.from({ length: RATE }, () => ask("tv", {}))),
  },
];

describe("limits", { concurrency: 2 }, () => {
  const shop = new Issuer("native", "ES256");
  let appliance, browser, theatre;

  before(async () => {
    appliance = await Appliance.start([shop], {
      license: `
[license.sessions]
streams = 1
devices = 1
device_header = "X-Device-Id"
[license.access]
proxies = ["127.0.0.0/8"]
country_header = "X-Country"
denied_countries = ["NO"]
[license.rates]
subject = ${RATE}
`,
      policies: { ended: { of: "cbcs", license: "expires = 2020-01-01T00:00:00Z" } },
    });
    browser = await Browser.open("h1", { origin_tls: appliance.origin });
    theatre = await Theatre.open();
  });

  after(async () => {
    await browser?.close();
    await theatre?.close();
    await appliance?.stop();
  });

  for (const [player, form, policy] of PLAYERS) {
    for (const { what, status, code, reason, again, claims = () => ({}), before: prepare, country } of CASES) {
      test(`${what}: ${form} ${policy} in ${player}`, async () => {
        const subject = `${player}-${code}-${reason}`;
        const stream = appliance.stream(policy);
        const token = (more) => shop.token({ asset: stream.asset }, { sub: subject, jti: subject, ...more });
        await prepare?.((name, more) => appliance.ask(policy, token(more), device(name)));

        const own = claims();
        const wanted = { ...film(stream, form, own && token(own)), headers: device("tv") };
        const performance = await theatre.perform(browser, player, wanted, {
          prepare: country ? (page) => from(page, appliance, country) : undefined,
        });
        const faults = await performance.fails();
        const told = faults.find((fault) => fault.status === status);
        assert.ok(told, `the player saw ${status}: ${JSON.stringify(faults)}`);
        assert.equal(told.code, code, `the player read the problem: ${JSON.stringify(faults)}`);
        // dash.js hands the page no header of an answer that is a refusal.
        if (again && player !== "dashjs") {
          assert.ok(Number(told.retryAfter) > 0, `the player saw when to come again: ${JSON.stringify(faults)}`);
        }
        assert.equal((await performance.state()).frames, 0, "no picture");
        await performance.close();
        await appliance.decided({ result: "refused", reason });
      });
    }
  }
});

/** Writes a viewer's country into requests for licences, as a proxy before the server would. */
async function from(page, appliance, country) {
  await page.route(appliance.license + "/license/**", async (route) => {
    const headers = { ...route.request().headers(), "x-country": country };
    await route.continue({ headers });
  });
}
