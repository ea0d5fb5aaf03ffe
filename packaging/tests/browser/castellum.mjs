// Starts `castellum demo` as a person would and hands out what its one JSON line says.

import { spawn } from "node:child_process";
import { createHmac, timingSafeEqual } from "node:crypto";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { once } from "node:events";
import { tmpdir } from "node:os";
import path from "node:path";

const READY_MS = 60_000;

export class Castellum {
  /**
   * @param {string} binary path of the program; the tests take it from CASTELLUM
   */
  static async demo(binary = process.env.CASTELLUM) {
    if (!binary) {
      throw new Error("CASTELLUM must name the castellum binary");
    }
    const folder = await mkdtemp(path.join(tmpdir(), "castellum-browser-"));
    const keep = path.join(folder, "keep");
    const child = spawn(binary, ["demo", "--json", "--port", "0", "--keep", keep], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    let complaints = "";
    child.stderr.on("data", (chunk) => (complaints = (complaints + chunk).slice(-8192)));
    const lines = createInterface({ input: child.stdout });
    const line = await Promise.race([
      once(lines, "line").then(([text]) => text),
      once(child, "exit").then(([code]) => Promise.reject(new Error(`castellum demo ended: ${code}\n${complaints}`))),
      new Promise((_, reject) =>
        setTimeout(() => reject(new Error(`castellum demo said nothing\n${complaints}`)), READY_MS).unref(),
      ),
    ]);
    return new Castellum(JSON.parse(line), child, folder, keep);
  }

  constructor(said, child, folder, keep) {
    this.said = said;
    this.child = child;
    this.folder = folder;
    this.keep = keep;
  }

  get token() {
    return this.said.token;
  }

  /** The stream of one policy of the first title, its URLs over TLS where `tls`. */
  stream(policy, { tls = true } = {}) {
    const { id, streams } = this.said.assets[0];
    const stream = streams.find((candidate) => candidate.policy === policy);
    if (!stream) {
      throw new Error(`no policy ${policy}; there are ${streams.map((other) => other.policy)}`);
    }
    const secure = (url) => (tls ? url.replace(this.said.origin, this.said.origin_tls) : url);
    return { ...stream, asset: id, hls: secure(stream.hls), dash: secure(stream.dash) };
  }

  isMedia(url) {
    return url.startsWith(this.said.origin_tls) || url.startsWith(this.said.origin + "/");
  }

  isLicense(url) {
    return url.startsWith(this.said.license + "/license/");
  }

  /** The demo's own token with other claims, signed by the demo's issuer, or by a stranger. */
  async mint(changes, { forged = false } = {}) {
    const [header, body, signature] = this.token.split(".");
    const secret = await this.#issuerSecret();
    const own = sign(`${header}.${body}`, secret);
    if (!timingSafeEqual(Buffer.from(own), Buffer.from(signature))) {
      throw new Error("the demo's token is not signed by the issuer key that it keeps");
    }
    const claims = { ...JSON.parse(Buffer.from(body, "base64url")), ...changes };
    const signed = `${header}.${Buffer.from(JSON.stringify(claims)).toString("base64url")}`;
    return `${signed}.${sign(signed, forged ? Buffer.alloc(32, 7) : secret)}`;
  }

  /** What the licence server decided, oldest first, once there are this many. Its file is written behind. */
  async decisions(atLeast = 0) {
    const file = path.join(this.keep, "state/license/decisions.jsonl");
    for (let attempt = 0; ; attempt++) {
      const text = await readFile(file, "utf8").catch(() => "");
      const lines = text.split("\n").slice(0, -1);
      if (lines.length >= atLeast) {
        return lines.map((line) => JSON.parse(line));
      }
      if (attempt === 100) {
        throw new Error(`${file} has ${lines.length} decisions, wanted ${atLeast}`);
      }
      await delay(50);
    }
  }

  async #issuerSecret() {
    return await readFile(path.join(this.keep, "issuer.key"));
  }

  async stop() {
    if (this.child.exitCode === null && this.child.signalCode === null) {
      this.child.kill("SIGINT");
      await once(this.child, "exit");
    }
    await rm(this.folder, { recursive: true, force: true });
  }
}

function sign(text, secret) {
  return createHmac("sha256", secret).update(text).digest("base64url");
}
