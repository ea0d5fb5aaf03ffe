// Tokens of every shape, by every algorithm, from every place that a player can put them: what each browser plays with.

import assert from "node:assert/strict";

import { ALGORITHMS, Issuer, SHAPE_NAMES } from "./issuer.mjs";
import { film } from "./stage.mjs";

const PLACES = { bearer: {}, header: { header: "X-Castellum-Token" }, query: { query: "token" } };

/** What stands in an appliance's `[license]` for all the places. */
export const LICENSE = 'token_header = "X-Castellum-Token"\ntoken_query = "token"';

/** The pictures of the title. */
const LADDER = ["320x180", "640x360", "1280x720"];

/**
 * Each shape with each of these players; algorithms, places and schemes take turns, so that each player meets each
 * place and scheme.
 *
 * @param {[player: string, form: "dash" | "hls"][]} players one that stands here twice meets both schemes in each shape
 */
export function everyShape(players) {
  const cases = SHAPE_NAMES.flatMap((shape, row) =>
    players.map(([player, form], column) => ({
      issuer: new Issuer(shape, ALGORITHMS[(row * players.length + column) % ALGORITHMS.length]),
      player,
      form,
      place: Object.keys(PLACES)[(row + column) % 3],
      policy: ["cenc", "cbcs"][(row + column) % 2],
    })),
  );
  const used = new Set(cases.map(({ issuer }) => issuer.algorithm));
  assert.deepEqual([...used].sort(), [...ALGORITHMS].sort(), "every algorithm has its turn");
  return cases;
}

export function titleOf({ issuer, player, form, place, policy }) {
  return `${issuer.name} in the ${place}: ${form} ${policy} in ${player}`;
}

/**
 * Plays one of these cases and judges what is seen, the licences on their way, and the server's record.
 *
 * @param {string} [picture] the file that is to show what the viewer saw
 */
export async function plays({ appliance, browser, theatre }, { issuer, player, form, place, policy }, picture) {
  const stream = appliance.stream(policy);
  const token = issuer.token({ asset: stream.asset, keyIds: await appliance.keyIds(policy) });
  const performance = await theatre.perform(browser, player, { ...film(stream, form, token), place: PLACES[place] });
  await performance.runsFrom(0);
  const { heights, keys, width, height } = await performance.state();
  assert.deepEqual(heights, [180, 360, 720]);
  assert.ok(LADDER.includes(`${width}x${height}`), `pictures are ${width}x${height}`);
  assert.deepEqual([...new Set(keys)], ["usable"]);
  const licenses = performance.journal.filter(({ url }) => appliance.isLicense(url));
  assert.deepEqual([...new Set(licenses.map(({ status }) => status))], [200]);
  assert.deepEqual([...new Set(licenses.map(({ url }) => url.includes(token)))], [place === "query"]);
  if (picture) {
    await performance.page.screenshot({ path: picture });
  }
  await performance.close();
  await appliance.decided({ issuer: issuer.name, result: "granted" });
}
