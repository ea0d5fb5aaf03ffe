// The player page itself, used as a person would: it plays at once, is worked by keyboard alone, shows the
// licence round trip without a key, and says so when the browser will not decrypt.

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { after, before, describe, test } from "node:test";
import path from "node:path";

import { Browser } from "./browser.mjs";
import { Castellum } from "./castellum.mjs";

const STEP_MS = 60_000;
const PICTURES = path.join(import.meta.dirname, "../../../target/pictures");

describe("player page", () => {
  let castellum, browser;

  before(async () => {
    castellum = await Castellum.demo();
    browser = await Browser.open("h2", castellum.said);
    await mkdir(PICTURES, { recursive: true });
  });

  after(async () => {
    await browser?.close();
    await castellum?.stop();
  });

  /** Opens the page and collects what must never appear: errors of the page and keys. */
  async function open(url = castellum.said.page) {
    const { page, journal } = await browser.tab();
    const errors = [];
    page.on("pageerror", (error) => errors.push(error.message));
    page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
    const keys = [];
    page.on("response", async (response) => {
      if (response.url().includes("/license/clearkey/") && response.request().method() === "POST") {
        const license = await response.json().catch(() => ({}));
        keys.push(...(license.keys ?? []).map(({ k }) => k));
      }
    });
    await page.goto(url);
    return { page, journal, errors, keys };
  }

  const runsPast = (page, time) =>
    page.waitForFunction((wanted) => document.querySelector("video").currentTime > wanted, time, {
      timeout: STEP_MS,
      polling: 100,
    });

  test("plays as soon as it is opened", async () => {
    const { page, errors, keys } = await open();
    await runsPast(page, 3);
    await page.locator("#license").getByText(/^200, \d keys?$/).first().waitFor();
    assert.match(await page.locator("#protocols").innerText(), /^http\/1\.1 × \d+$/);
    assert.ok((await page.locator("#license .kid.given").count()) >= 1, "key ids that were given");
    assert.ok(keys.length > 0, "a licence passed by");
    const shown = await page.locator("body").innerText();
    assert.ok(!keys.some((key) => shown.includes(key)), "no key is shown");
    assert.deepEqual(errors, []);
    await page.screenshot({ path: path.join(PICTURES, "page.png") });
    await page.close();
  });

  test("is worked by keyboard alone", async () => {
    const { page, errors } = await open();
    await runsPast(page, 1);

    await page.keyboard.press("Tab");
    assert.equal(await focused(page), "Skip to the player");
    await page.keyboard.press("Enter");
    for (const expected of ["Title", "Policy", "Player", "Connection", "Play"]) {
      await page.keyboard.press("Tab");
      assert.equal(await focused(page), expected);
      if (expected === "Policy") {
        await page.keyboard.type("clear");
      }
      assert.notEqual(await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle), "none");
    }
    await page.keyboard.press("Enter");
    await page.getByText("no licence is needed").waitFor({ timeout: STEP_MS });
    await runsPast(page, 2);
    assert.match(await page.locator("#url").inputValue(), /\/clear\/main\.(mpd|m3u8)$/);
    assert.deepEqual(errors, []);
    await page.close();
  });

  test("plays every choice that it offers", async () => {
    const { page, errors } = await open();
    const choose = async (name, value) => page.locator(`select[name=${name}]`).selectOption(value);
    const offered = (name) =>
      page.locator(`select[name=${name}] option`).evaluateAll((options) => options.map(({ value }) => value));

    await page.locator("select[name=policy] option").first().waitFor({ state: "attached" });
    let played = 0;
    for (const policy of await offered("policy")) {
      await choose("policy", policy);
      for (const player of await offered("player")) {
        await choose("player", player);
        await page.evaluate(() => document.querySelector("#events").replaceChildren());
        await page.getByRole("button", { name: "Play" }).click();
        await page.locator("#events").getByText(`policy ${policy}`).waitFor({ timeout: STEP_MS });
        await page.locator("#events").getByText(/^Playing/).first().waitFor({ timeout: STEP_MS });
        await runsPast(page, 0.5);
        assert.equal(await page.locator("#events .bad").count(), 0, `${policy} in ${player}`);
        played += 1;
      }
    }
    assert.ok(played >= 8, `${played} ways were offered`);
    assert.deepEqual(errors, []);
    await page.close();
  });

  test("shows HTTP/2 where the browser trusts the demo's CA", async () => {
    const { page, errors } = await open();
    await runsPast(page, 0);
    await page.getByLabel("Connection").selectOption("tls");
    await page.getByRole("button", { name: "Play" }).click();
    await page.locator("#protocols").getByText(/^h2 × \d+$/).waitFor({ timeout: STEP_MS });
    await runsPast(page, 2);
    assert.match(await page.locator("#url").inputValue(), /^https:/);
    assert.deepEqual(errors, []);
    await page.close();
  });

  test("switches language", async () => {
    const { page, errors } = await open();
    await runsPast(page, 1);
    const language = page.getByLabel("Language");
    assert.deepEqual(await language.locator("option").allInnerTexts(), ["English", "French"]);
    await language.selectOption({ label: "French" });
    await runsPast(page, (await page.evaluate(() => document.querySelector("video").currentTime)) + 2);
    assert.deepEqual(errors, []);
    await page.close();
  });

  test("shows a refusal", async () => {
    const token = await castellum.mint({ assets: ["another"] });
    const { page } = await browser.tab();
    await page.route("**/api/v1/demo", async (route) => {
      const response = await route.fetch();
      await route.fulfill({ response, json: { ...(await response.json()), token } });
    });
    await page.goto(castellum.said.page);
    const refused = page.locator("#license .answer.bad").first();
    const complaints = page.locator("#events .bad");
    for (const [policy, player, words] of [
      ["cenc", "shaka-dash", "shaka, DASH"],
      ["cbcs-identity", "shaka-hls", "shaka, HLS"],
      ["cbcs", "hls-hls", "hls.js, HLS"],
    ]) {
      await page.locator("select[name=policy]").selectOption(policy);
      await page.locator("select[name=player]").selectOption(player);
      await page.getByRole("button", { name: "Play" }).click();
      // The page clears its list of licences before it says this: what is refused from here on is this play's.
      await page.locator("#events").getByText(`${words}, policy ${policy}`).first().waitFor({ timeout: STEP_MS });
      await refused.filter({ hasText: "403" }).waitFor({ timeout: STEP_MS });
      await complaints.first().waitFor({ timeout: STEP_MS });
      await page.screenshot({ path: path.join(PICTURES, `refused-${player}.png`) });
    }
    await page.close();
  });

  test("says so when the context is not secure", async () => {
    const { page } = await browser.tab();
    await page.addInitScript(() => Object.defineProperty(window, "isSecureContext", { value: false }));
    await page.goto(castellum.said.page);
    await page.getByRole("alert").getByText("secure context").waitFor();
    const policies = page.locator("select[name=policy]");
    assert.equal(await policies.inputValue(), "clear");
    assert.deepEqual(
      await policies.locator("option:disabled").evaluateAll((options) => options.map(({ value }) => value).sort()),
      castellum.said.assets[0].streams
        .filter(({ scheme }) => scheme !== "clear")
        .map(({ policy }) => policy)
        .sort(),
    );
    await page.close();
  });
});

/** The name by which a screen reader would call what has the focus. */
function focused(page) {
  return page.evaluate(() => {
    const { activeElement } = document;
    const label = activeElement.labels?.[0]?.firstChild.textContent ?? activeElement.textContent;
    return label.trim();
  });
}
