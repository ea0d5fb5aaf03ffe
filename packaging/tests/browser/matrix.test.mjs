// Every stream of the demo in every player that is meant to take it, over HTTP/2.
//
// What this cannot catch: systems other than ClearKey (Chromium has no other), and how Apple's players
// take the playlists.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { Browser } from "./browser.mjs";
import { Castellum } from "./castellum.mjs";
import { film, Theatre } from "./stage.mjs";

const PLAYS = [
  ["shaka", "dash", ["clear", "cenc", "cbcs", "cbcs-identity"]],
  ["dashjs", "dash", ["clear", "cenc", "cbcs"]],
  ["shaka", "hls", ["clear", "cenc", "cbcs-identity"]],
  ["hlsjs", "hls", ["clear", "cenc", "cbcs"]],
];

describe("players over h2", { concurrency: 2 }, () => {
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

  for (const [player, form, policies] of PLAYS) {
    for (const policy of policies) {
      test(`${form} ${policy} in ${player}`, async () => {
        const stream = castellum.stream(policy);
        const performance = await theatre.perform(browser, player, film(stream, form, castellum.token));
        await performance.playsThrough();

        const { languages, heights } = await performance.state();
        assert.deepEqual(languages, ["en", "fr"]);
        assert.deepEqual(heights, [180, 360, 720]);

        const media = performance.journal.filter(({ url }) => castellum.isMedia(url));
        assert.ok(media.length > 6, "the origin was asked for manifest, init and segments");
        assert.deepEqual([...new Set(media.map(({ protocol }) => protocol))], ["h2"]);
        const licenses = performance.journal.filter(({ url }) => castellum.isLicense(url));
        assert.deepEqual(
          [...new Set(licenses.map(({ status }) => status))],
          stream.scheme === "clear" ? [] : [200],
        );
        await performance.close();
      });
    }
  }
});
