// Each response that the browser got for the film, as the Resource Timing API tells it. A response of
// another origin shows its protocol and size only because the origin sends Timing-Allow-Origin.

import { make } from "./element.js";

/** The longest list worth showing; the counts go on. */
const SHOWN = 60;

export class Responses {
  #rows;
  #chips;
  #counts = new Map();
  #bases = [];

  constructor(rows, chips) {
    this.#rows = rows;
    this.#chips = chips;
    // A long film outgrows the buffer of 250 entries, so it is emptied as it is read.
    new PerformanceObserver((list) => {
      list.getEntries().forEach((entry) => this.#add(entry));
      performance.clearResourceTimings();
    }).observe({ type: "resource" });
  }

  /** Forgets what was shown, and watches these origins from now on. */
  watch(bases) {
    this.#bases = bases;
    this.#counts.clear();
    this.#rows.replaceChildren();
    this.#chips.replaceChildren();
  }

  #add(entry) {
    if (!this.#bases.some((base) => entry.name.startsWith(base + "/"))) {
      return;
    }
    const protocol = entry.nextHopProtocol || "–";
    this.#counts.set(protocol, (this.#counts.get(protocol) ?? 0) + 1);
    this.#chips.replaceChildren(
      ...[...this.#counts].map(([name, count]) => make("span", `${name} × ${count}`, "chip")),
    );

    const status = entry.responseStatus ?? 0;
    const row = make("tr");
    const what = make("td", shorten(entry.name));
    what.title = entry.name;
    row.append(
      what,
      make("td", protocol),
      make("td", status || "–", `number ${status >= 400 ? "bad" : ""}`),
      make("td", size(entry.encodedBodySize), "number"),
      make("td", `${Math.round(entry.duration)} ms`, "number"),
    );
    this.#rows.prepend(row);
    while (this.#rows.childElementCount > SHOWN) {
      this.#rows.lastElementChild.remove();
    }
  }
}

/** The telling end of a URL: rendition and file, without the digest between them. */
function shorten(url) {
  const parts = new URL(url).pathname.split("/").filter((part) => part && !part.startsWith("~"));
  return parts.slice(-2).join("/");
}

function size(bytes) {
  return bytes < 10_000 ? `${bytes} B` : `${Math.round(bytes / 1000)} kB`;
}
