// Debian's Firefox, as stock as it comes: driven over WebDriver BiDi, with a network journal of its own.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";

import puppeteer from "puppeteer-core";

/** The longest that Firefox may take to start, to answer one command, and to end. */
const START_MS = 60_000;
const COMMAND_MS = 90_000;
const END_MS = 10_000;

const PREFERENCES = {
  "media.autoplay.default": 0, // allowed, with sound too
  "media.autoplay.blocking_policy": 0,
  "media.block-autoplay-until-in-foreground": false,
  "media.suspend-background-video.enabled": false,
  "media.eme.enabled": true,
  // ClearKey is built in: no other decryption module is to be fetched.
  "media.gmp-manager.updateEnabled": false,
};

export class Firefox {
  /** The tab that opens or closes now. */
  #moving = Promise.resolve();

  static async open() {
    const home = await mkdtemp(path.join(tmpdir(), "castellum-firefox-"));
    try {
      const browser = await puppeteer.launch({
        browser: "firefox",
        executablePath: process.env.FIREFOX ?? "/usr/bin/firefox-esr",
        headless: true,
        userDataDir: path.join(home, "profile"),
        env: { ...process.env, HOME: home },
        extraPrefsFirefox: PREFERENCES,
        defaultViewport: { width: 1280, height: 860 },
        timeout: START_MS,
        protocolTimeout: COMMAND_MS,
      });
      return new Firefox(browser, home);
    } catch (error) {
      await rm(home, { recursive: true, force: true, maxRetries: 5 });
      throw error;
    }
  }

  constructor(browser, home) {
    this.browser = browser;
    this.home = home;
  }

  /** A new tab and the journal of everything that it fetches. */
  async tab() {
    const page = await this.#move(() => this.browser.newPage());
    const journal = [];
    page.on("response", (response) => {
      const method = response.request().method();
      if (method !== "OPTIONS") {
        journal.push({ url: response.url(), status: response.status(), cached: response.fromCache(), method });
      }
    });
    return { page: new Tab(page, () => this.#move(() => page.close())), journal };
  }

  /** Opens or closes a tab after the others: a tab that opens while another closes may be lost (DiscardedBrowsingContextError). */
  #move(act) {
    const moved = this.#moving.then(act);
    this.#moving = moved.catch(() => {});
    return moved;
  }

  async close() {
    const ended = this.browser.close().then(() => true);
    if (!(await Promise.race([ended, delay(END_MS, false, { ref: false })]))) {
      this.browser.process().kill("SIGKILL");
      await ended.catch(() => {});
    }
    await rm(this.home, { recursive: true, force: true, maxRetries: 5 });
  }
}

/** A page as the stage knows it from Chromium's driver: there, what a function is called with stands before the options. */
class Tab {
  constructor(page, close) {
    this.page = page;
    this.close = close;
  }

  goto(url) {
    return this.page.goto(url);
  }

  evaluate(act, argument) {
    return this.page.evaluate(act, argument);
  }

  waitForFunction(holds, argument, options) {
    return this.page.waitForFunction(holds, options, argument);
  }

  screenshot(options) {
    return this.page.screenshot(options);
  }
}
