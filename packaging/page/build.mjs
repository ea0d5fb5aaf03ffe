// Bundles the page into dist/, which the castellum binary embeds. Everything that it loads is in there.

import { copyFile, mkdir, rm } from "node:fs/promises";
import path from "node:path";

import { build } from "esbuild";

const here = import.meta.dirname;
const dist = path.join(here, "dist");

await rm(dist, { recursive: true, force: true });
await mkdir(dist, { recursive: true });
await build({
  entryPoints: [path.join(here, "src/page.js")],
  outdir: dist,
  bundle: true,
  // Each player is a file of its own, fetched when it is chosen.
  splitting: true,
  format: "esm",
  target: "es2022",
  minify: true,
  chunkNames: "[name]-[hash]",
  legalComments: "eof",
  logLevel: "warning",
});
await copyFile(path.join(here, "src/page.css"), path.join(dist, "page.css"));
await copyFile(path.join(here, "src/favicon.svg"), path.join(dist, "favicon.svg"));
// Last: make takes it for the sign of a whole build.
await copyFile(path.join(here, "src/index.html"), path.join(dist, "index.html"));
