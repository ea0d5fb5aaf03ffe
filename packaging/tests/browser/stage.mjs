// A stage: a bare page with a video element and one player, and the judgement of what happens on it.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import path from "node:path";

const here = import.meta.dirname;
const require = createRequire(import.meta.url);

const LIBRARIES = {
  shaka: ["shaka-player", "dist/shaka-player.compiled.js"],
  dashjs: ["dashjs", "dist/modern/umd/dash.all.min.js"],
  hlsjs: ["hls.js", "dist/hls.min.js"],
};

/** How far the clock must run past a start or a seek. */
const RUN_S = 2;

/** The longest that any one step may take: an upper bound for a loaded machine, never a wait. */
const STEP_MS = 60_000;

/**
 * What a page tells a player. A DASH player finds the licence URL in the manifest, and must; hls.js
 * wants it from the page.
 */
export function film(stream, form, token) {
  return { url: stream[form], license: form === "hls" ? stream.license : null, token };
}

/** Serves the stage to browsers, on loopback: a secure context, as EME wants it. */
export class Theatre {
  static async open() {
    const server = createServer((request, response) => {
      answer(new URL(request.url, "http://stage").pathname).then(
        ({ type, body }) => response.writeHead(200, { "content-type": type }).end(body),
        () => response.writeHead(404).end(),
      );
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    return new Theatre(server);
  }

  constructor(server) {
    this.server = server;
    this.url = `http://127.0.0.1:${server.address().port}`;
  }

  /**
   * Loads a stream on a new tab.
   *
   * @param {"shaka" | "dashjs" | "hlsjs"} player
   * @param {{ url: string, license: string | null, token: string | null, place?: object, headers?: object }} film
   *   `place` says where the token stands (stage/stage.js), `headers` what else goes along with requests for licences
   */
  async perform(browser, player, film, { prepare = async () => {} } = {}) {
    const { page, journal } = await browser.tab();
    await prepare(page);
    await page.goto(`${this.url}/${player}.html`);
    await page.evaluate((wanted) => window.stage.load(wanted), film);
    return new Performance(page, journal);
  }

  async close() {
    this.server.closeAllConnections();
    this.server.close();
    await once(this.server, "close");
  }
}

async function answer(name) {
  const player = /^\/(\w+)\.html$/.exec(name)?.[1];
  if (player) {
    const body = (await readFile(path.join(here, "stage/index.html"), "utf8")).replaceAll("PLAYER", player);
    return { type: "text/html; charset=utf-8", body };
  }
  const library = /^\/library\/(\w+)\.js$/.exec(name)?.[1];
  if (library) {
    const [owner, file] = LIBRARIES[library];
    const root = packageRoot(owner);
    return { type: "text/javascript", body: await readFile(path.join(root, file)) };
  }
  const file = path.join(here, "stage", path.basename(name));
  return { type: "text/javascript", body: await readFile(file) };
}

function packageRoot(name) {
  const found = require.resolve
    .paths(name)
    .map((folder) => path.join(folder, name))
    .find((folder) => require("node:fs").existsSync(path.join(folder, "package.json")));
  assert.ok(found, `${name} is not installed: npm ci --prefix packaging`);
  return found;
}

/** One stream in one player on one tab. */
export class Performance {
  constructor(page, journal) {
    this.page = page;
    this.journal = journal;
  }

  /** Waits until the film has run on for RUN_S from `target`, without a gap and with new pictures. */
  async runsFrom(target, { video = true } = {}) {
    const before = await this.state();
    await this.page
      .waitForFunction(
        ([from, run]) => window.stage.faults.length > 0 || window.stage.played(from, from + run),
        [target, RUN_S],
        { timeout: STEP_MS, polling: 100 },
      )
      .catch(async (error) => {
        throw new Error(`${error.message}\n${JSON.stringify(await this.state(), null, 2)}`);
      });
    const after = await this.state();
    assert.deepEqual(after.faults, [], "no error event");
    assert.ok(after.time >= target + RUN_S, `time is ${after.time}, wanted ${target + RUN_S}`);
    if (video) {
      assert.ok(after.frames > before.frames, `decoded frames grow: ${before.frames}, then ${after.frames}`);
    }
  }

  /** The start, a seek forward and a seek back. */
  async playsThrough() {
    await this.runsFrom(0);
    for (const target of [19.3, 6.1]) {
      await this.page.evaluate((time) => window.stage.seek(time), target);
      await this.runsFrom(target);
    }
  }

  /** Waits for the first fault that a player reports and returns all of them. */
  async fails() {
    await this.page
      .waitForFunction(() => window.stage.faults.length > 0, null, { timeout: STEP_MS, polling: 100 })
      .catch(async (error) => {
        throw new Error(`${error.message}\n${JSON.stringify(await this.state(), null, 2)}`);
      });
    return (await this.state()).faults;
  }

  state() {
    return this.page.evaluate(() => window.stage.state());
  }

  close() {
    return this.page.close();
  }
}
