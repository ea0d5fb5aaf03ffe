// Tokens of every shape, by every algorithm, from every place that a player can put them, in every player; and what a
// viewer sees who may have small pictures only.

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { after, before, describe, test } from "node:test";
import path from "node:path";

import { Appliance, base64url } from "./appliance.mjs";
import { Browser } from "./browser.mjs";
import { everyShape, LICENSE, plays, titleOf } from "./shapes.mjs";
import { film, Theatre } from "./stage.mjs";

const PICTURES = path.join(import.meta.dirname, "../../../target/pictures");

const CASES = everyShape([
  ["shaka", "dash"],
  ["dashjs", "dash"],
  ["hlsjs", "hls"],
]);

// The manifests of a policy for small pictures play everywhere. With the full one and without the key of the large pictures,
// shaka-player plays DASH, and nothing else does without an error (license/README.md).
const SMALL = [
  ["shaka", "dash", "small-cenc"],
  ["shaka", "dash", "small-cbcs"],
  ["dashjs", "dash", "small-cenc"],
  ["dashjs", "dash", "small-cbcs"],
  ["hlsjs", "hls", "small-cenc"],
  ["hlsjs", "hls", "small-cbcs"],
  ["shaka", "hls", "small-cenc"],
  ["shaka", "hls", "small-identity"],
  ["shaka", "dash", "cenc"],
  ["shaka", "dash", "cbcs"],
];

describe("tokens", { concurrency: 2 }, () => {
  const issuers = CASES.map(({ issuer }) => issuer);
  const [shop] = issuers;
  let appliance, browser, theatre;

  before(async () => {
    const small = 'max_video = "SD"';
    appliance = await Appliance.start(issuers, {
      license: LICENSE,
      policies: {
        "small-cenc": { of: "cenc", license: small },
        "small-cbcs": { of: "cbcs", license: small },
        "small-identity": { of: "cbcs-identity", license: small },
        kept: { of: "cenc", license: "persistent = true" },
      },
    });
    browser = await Browser.open("h1", { origin_tls: appliance.origin });
    theatre = await Theatre.open();
    await mkdir(PICTURES, { recursive: true });
  });

  after(async () => {
    await browser?.close();
    await theatre?.close();
    await appliance?.stop();
  });

  for (const one of CASES) {
    test(titleOf(one), () => plays({ appliance, browser, theatre }, one));
  }

  for (const [player, form, policy] of SMALL) {
    test(`small pictures only: ${form} ${policy} in ${player}`, async () => {
      const stream = appliance.stream(policy);
      const full = !policy.startsWith("small");
      const keyIds = await appliance.keyIds(policy, { hd: false });
      const token = shop.token({ asset: stream.asset }, full ? { kids: keyIds } : { policy });
      const performance = await theatre.perform(browser, player, film(stream, form, token));
      await performance.playsThrough();
      const { heights, width } = await performance.state();
      assert.deepEqual(heights, [180, 360]);
      assert.ok(width <= 640, `pictures are ${width} wide`);
      const licenses = performance.journal.filter(({ url }) => appliance.isLicense(url));
      assert.ok(licenses.length > 0);
      if (!full) {
        assert.deepEqual([...new Set(licenses.map(({ status }) => status))], [200], "no key is refused");
      }
      await performance.page.screenshot({ path: path.join(PICTURES, `${policy}-${player}-${form}.png`) });
      await performance.close();
    });
  }

  // Browsers keep no ClearKey licences, so what `MediaKeySession.remove()` would have the page send is written here.
  test("a page of another origin gives up a licence that it kept", async () => {
    const { asset, license } = appliance.stream("kept");
    const token = shop.token({ asset }, { policy: "kept", sub: "keeper" });
    const kids = (await appliance.keyIds("kept")).map(base64url);
    const { page } = await browser.tab();
    await page.goto(`${theatre.url}/shaka.html`);
    const post = (url, body) =>
      page.evaluate(
        async ([to, bearer, sent]) => {
          const headers = { Authorization: `Bearer ${bearer}`, "Content-Type": "application/json" };
          const response = await fetch(to, { method: "POST", headers, body: JSON.stringify(sent) });
          return { status: response.status, said: await response.json() };
        },
        [url, token, body],
      );
    const kept = await post(license, { kids, type: "persistent-license" });
    assert.equal(kept.status, 200);
    assert.equal(kept.said.type, "persistent-license");
    assert.deepEqual(await post(`${license}/release`, { kids }), { status: 200, said: { kids } });
    await page.close();
    const decision = await appliance.decided({ subject: "keeper", result: "released" });
    assert.equal(decision.kids.length, kids.length);
  });
});
