// Debian's Chromium, told which protocol to speak, with a network journal of its own.

import { execFile } from "node:child_process";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { promisify } from "node:util";
import { tmpdir } from "node:os";
import path from "node:path";

import { chromium } from "playwright-core";

const run = promisify(execFile);

const ALWAYS = [
  "--no-sandbox",
  "--disable-gpu",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--autoplay-policy=no-user-gesture-required",
];

// QUIC trusts publicly known roots only, and silently stays away from any other: naming some origin to
// force lifts that for all of them. So `upgrade` names a port where nobody listens.
const PROTOCOLS = {
  h1: () => ["--disable-http2", "--disable-quic"],
  h2: () => ["--disable-quic"],
  h3: (host, port) => ["--enable-quic", `--origin-to-force-quic-on=${host}:${port}`],
  upgrade: (host) => ["--enable-quic", `--origin-to-force-quic-on=${host}:1`],
};

export class Browser {
  /**
   * @param {"h1" | "h2" | "h3" | "upgrade"} protocol what to speak with `origin`; `upgrade` follows Alt-Svc
   * @param {{ origin_tls: string, ca?: string }} said the origin, and the CA to trust for it, if it needs one
   */
  static async open(protocol, said) {
    const home = await mkdtemp(path.join(tmpdir(), "castellum-chromium-"));
    try {
      if (said.ca) {
        await trust(home, said.ca);
      }
      const { hostname, port } = new URL(said.origin_tls);
      const context = await chromium.launchPersistentContext(path.join(home, "profile"), {
        executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
        headless: true,
        viewport: { width: 1280, height: 860 },
        args: [...ALWAYS, ...PROTOCOLS[protocol](hostname, port)],
        env: { ...process.env, HOME: home },
      });
      return new Browser(context, home);
    } catch (error) {
      await rm(home, { recursive: true, force: true });
      throw error;
    }
  }

  constructor(context, home) {
    this.context = context;
    this.home = home;
  }

  /** A new tab and the journal of everything that it fetches. */
  async tab() {
    const page = await this.context.newPage();
    const session = await this.context.newCDPSession(page);
    const journal = [];
    const methods = new Map();
    session.on("Network.requestWillBeSent", ({ requestId, request }) => methods.set(requestId, request.method));
    session.on("Network.responseReceived", ({ requestId, response, type }) => {
      if (type !== "Preflight") {
        const { url, status, protocol } = response;
        const cached = Boolean(response.fromDiskCache);
        journal.push({ url, status, protocol, cached, method: methods.get(requestId) });
      }
    });
    await session.send("Network.enable");
    return { page, journal };
  }

  async close() {
    await this.context.close();
    await rm(this.home, { recursive: true, force: true, maxRetries: 5 });
  }
}

/** Lays an NSS store with one trusted CA where Chromium looks for it under HOME. */
async function trust(home, ca) {
  for (const place of [".pki/nssdb", ".local/share/pki/nssdb"]) {
    const store = path.join(home, place);
    await mkdir(store, { recursive: true });
    await run("certutil", ["-d", `sql:${store}`, "-N", "--empty-password"]);
    await run("certutil", ["-d", `sql:${store}`, "-A", "-n", "castellum demo", "-t", "C,,", "-i", ca]);
  }
}
