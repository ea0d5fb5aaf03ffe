// One encrypted title in each player over HTTP/1.1, over HTTP/3 from the first byte, and over HTTP/3 found
// by Alt-Svc. The protocol is what the browser's network events say, not what a page may see.

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

const EXPECTED = {
  h1: (protocols) => assert.deepEqual([...new Set(protocols)], ["http/1.1"]),
  h3: (protocols) => assert.deepEqual([...new Set(protocols)], ["h3"]),
  // Each of the first responses was on its way before the advertised protocol was up.
  upgrade: (protocols) => {
    assert.equal(protocols[0], "h2");
    assert.deepEqual([...new Set(protocols)], ["h2", "h3"], "h2 first, then h3");
    assert.equal(protocols.at(-1), "h3");
  },
};

for (const [protocol, judge] of Object.entries(EXPECTED)) {
  describe(`players over ${protocol}`, { concurrency: 2 }, () => {
    let castellum, theatre;

    before(async () => {
      castellum = await Castellum.demo();
      theatre = await Theatre.open();
    });

    after(async () => {
      await theatre?.close();
      await castellum?.stop();
    });

    for (const [player, form, policy] of PLAYS) {
      test(`${form} ${policy} in ${player}`, async (context) => {
        // A browser of its own: another tab's Alt-Svc would be remembered.
        const browser = await Browser.open(protocol, castellum.said);
        context.after(() => browser.close());
        const wanted = film(castellum.stream(policy), form, castellum.token);
        const performance = await theatre.perform(browser, player, wanted);
        await performance.playsThrough();

        const media = performance.journal.filter(({ url, cached }) => castellum.isMedia(url) && !cached);
        assert.ok(media.length > 6, "the origin was asked for manifest, init and segments");
        judge(media.map((response) => response.protocol));
      });
    }
  });
}
