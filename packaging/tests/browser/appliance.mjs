// Starts the appliance with a configuration of the test's own, in one process and on loopback without TLS.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";

const READY_MS = 60_000;
const TITLE = path.join(import.meta.dirname, "../../demo/title");
const ASSET = "castellum";

/** Which scheme a policy's pack has, and how ClearKey is spelled in its playlists. */
const POLICIES = {
  cenc: { pack: "cenc", hls: "both" },
  cbcs: { pack: "cbcs", hls: "clearkey" },
  "cbcs-identity": { pack: "cbcs", hls: "identity" },
};

export class Appliance {
  /**
   * @param {import("./issuer.mjs").Issuer[]} issuers who signs the tokens that it takes
   * @param {{ license?: string, policies?: Record<string, { of: string, license: string }> }} more keys of
   *   `[license]` and the tables after it, and policies besides the usual ones, with what their licences say
   */
  static async start(issuers, { license = "", policies = {} } = {}) {
    const folder = await mkdtemp(path.join(tmpdir(), "castellum-appliance-"));
    const ports = await freePorts(3);
    const config = await configure(folder, ports, issuers, license, policies);
    const child = spawn(process.env.CASTELLUM, ["serve", "--config", config], { stdio: ["ignore", "ignore", "pipe"] });
    let complaints = "";
    child.stderr.on("data", (chunk) => (complaints = (complaints + chunk).slice(-8192)));
    const appliance = new Appliance(child, folder, ports);
    const begun = Date.now();
    while (!(await appliance.answers())) {
      if (child.exitCode !== null || Date.now() - begun > READY_MS) {
        await appliance.stop();
        throw new Error(`castellum serve does not answer\n${complaints}`);
      }
      await delay(50);
    }
    return appliance;
  }

  constructor(child, folder, [origin, license]) {
    this.child = child;
    this.folder = folder;
    this.origin = `http://127.0.0.1:${origin}`;
    this.license = `http://127.0.0.1:${license}`;
  }

  /** The asset under a policy, and where its licences are. */
  stream(policy) {
    const folder = `${this.origin}/v1/${ASSET}/${policy}`;
    return {
      asset: ASSET,
      dash: `${folder}/main.mpd`,
      hls: `${folder}/main.m3u8`,
      license: `${this.license}/license/clearkey/${ASSET}`,
    };
  }

  async answers() {
    const response = await fetch(this.stream("cenc").dash).catch(() => null);
    return response?.status === 200;
  }

  isLicense(url) {
    return url.startsWith(this.license + "/license/");
  }

  /** The ids of the asset's keys under a policy; without `hd`, those of sound and small pictures. */
  async keyIds(policy, { hd = true } = {}) {
    const mpd = await (await fetch(this.stream(policy).dash)).text();
    const sets = mpd.split("<AdaptationSet ").slice(1);
    const wanted = sets.filter((set) => hd || !set.includes('height="720"'));
    return [...new Set(wanted.map((set) => /cenc:default_KID="([^"]+)"/.exec(set)[1]))];
  }

  /** A ClearKey licence request without a player. */
  async ask(policy, token, headers = {}) {
    const kids = (await this.keyIds(policy)).map(base64url);
    return await fetch(this.stream(policy).license, {
      method: "POST",
      headers: { Authorization: `Bearer ${token}`, ...headers },
      body: JSON.stringify({ kids, type: "temporary" }),
    });
  }

  /** Waits for a decision like this one. The log's file is written behind. */
  async decided(like) {
    const file = path.join(this.folder, "license/decisions.jsonl");
    for (let attempt = 0; ; attempt++) {
      const text = await readFile(file, "utf8").catch(() => "");
      const decisions = text.split("\n").slice(0, -1).map((line) => JSON.parse(line));
      const found = decisions.find((decision) =>
        Object.entries(like).every(([name, value]) => decision[name] === value),
      );
      if (found) {
        return found;
      }
      if (attempt === 100) {
        throw new Error(`no decision is like ${JSON.stringify(like)}; the last ones: ${text.slice(-2048)}`);
      }
      await delay(50);
    }
  }

  async stop() {
    if (this.child.exitCode === null && this.child.signalCode === null) {
      this.child.kill("SIGINT");
      await once(this.child, "exit");
    }
    await rm(this.folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

/** A key id as ClearKey spells it. */
export function base64url(uuid) {
  return Buffer.from(uuid.replaceAll("-", ""), "hex").toString("base64url");
}

async function configure(folder, [origin, license, admin], issuers, more, policies) {
  const at = (name) => JSON.stringify(path.join(folder, name));
  for (const name of ["media", "origin", "cache", "license", "keystore", "run"]) {
    await mkdir(path.join(folder, name));
  }
  await cp(TITLE, path.join(folder, "media", ASSET), { recursive: true });
  await writeFile(path.join(folder, "passphrase"), "a passphrase of the tests\n", { mode: 0o600 });
  const tables = [];
  for (const issuer of issuers) {
    tables.push(issuer.table(await issuer.write(folder)));
  }
  const every = { ...Object.fromEntries(Object.keys(POLICIES).map((name) => [name, { of: name, license: "" }])), ...policies };
  for (const [name, { of, license: terms }] of Object.entries(every)) {
    const { pack, hls } = POLICIES[of];
    tables.push(
      `[policies.${name}]\npack = "${pack}"\nsystems = ["clearkey"]\nhls_clear_key = "${hls}"\n` +
        `[policies.${name}.license]\n${terms}\n`,
    );
  }
  const file = path.join(folder, "castellum.toml");
  await writeFile(
    file,
    `
runtime_dir = ${at("run")}
[drain]
delay = "0s"
timeout = "2s"
[origin]
media_root = ${at("media")}
state_dir = ${at("origin")}
cache_dir = ${at("cache")}
settle = "100ms"
scan_interval = "100ms"
workers = 2
[origin.tls]
listen = "off"
[origin.plain]
listen = "127.0.0.1:${origin}"
[origin.admin]
listen = "127.0.0.1:${admin}"
[keystore]
state_dir = ${at("keystore")}
passphrase_file = ${at("passphrase")}
init_at_start = true
[keystore.argon2]
memory = "19MiB"
passes = 1
lanes = 1
[keystore.callers.origin]
user = "daemon"
may = ["lease"]
[keystore.callers.license]
user = "bin"
may = ["export"]
[packs.cenc]
scheme = "cenc"
[packs.cbcs]
scheme = "cbcs"
[tenants.default]
allow_clear_key = true
[license.tls]
listen = "off"
[license.plain]
listen = "127.0.0.1:${license}"
[license.admin]
listen = "off"
${tables.join("\n")}
[license]
public_url = "http://127.0.0.1:${license}"
state_dir = ${at("license")}
${more}
`,
  );
  await chmod(file, 0o600);
  return file;
}

const LOWEST_PORT = 10_000;
let nextPort = process.pid * 101;

/** Ports that no outgoing connection gets before the appliance listens on them, as `loadtest/src/port.rs` chooses them. */
async function freePorts(count) {
  const outgoing = Number.parseInt(await readFile("/proc/sys/net/ipv4/ip_local_port_range", "utf8"), 10);
  const end = outgoing > LOWEST_PORT ? outgoing : 65_535;
  const ports = [];
  while (ports.length < count) {
    const port = LOWEST_PORT + (nextPort++ % (end - LOWEST_PORT));
    const server = createServer().listen(port, "127.0.0.1");
    const taken = await once(server, "listening").then(
      () => false,
      () => true,
    );
    if (!taken) {
      await once(server.close(), "close");
      ports.push(port);
    }
  }
  return ports;
}
