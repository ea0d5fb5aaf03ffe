// The licence round trips of one film: each request and, once it is there, its answer.

import { make } from "./element.js";

export class Exchanges {
  #list;
  #open = [];

  constructor(list) {
    this.#list = list;
  }

  clear(words) {
    this.#open = [];
    this.#list.replaceChildren(make("li", words));
  }

  asked({ method, url, kids }) {
    if (this.#open.some((open) => open.url === url && `${open.kids}` === `${kids}`)) {
      return; // the same question again, while the first one waits for its answer
    }
    const item = make("li");
    const answer = make("span", "…", "answer");
    const asked = kids.map((kid) => make("span", kid, "kid"));
    item.append(answer, `${method} ${new URL(url).pathname}`, ...asked);
    if (this.#list.querySelector(".answer")) {
      this.#list.append(item);
    } else {
      this.#list.replaceChildren(item);
    }
    this.#open.push({ url, kids, answer, asked });
  }

  answered({ url, status, kids }) {
    // Requests overtake each other: the answer belongs to the one that asked for its keys.
    const exchange = this.#close((open) => open.url === url && open.kids.some((kid) => kids.includes(kid)));
    if (exchange) {
      exchange.answer.textContent = `${status}, ${kids.length} ${kids.length === 1 ? "key" : "keys"}`;
      exchange.answer.classList.add("good");
      for (const element of exchange.asked) {
        element.classList.toggle("given", kids.includes(element.textContent));
      }
    }
  }

  refused({ url, status, reason }) {
    // shaka-player tells of the first refusal only, and then gives up on them all.
    let exchange;
    while ((exchange = this.#close((open) => open.url === url))) {
      exchange.answer.textContent = [status, reason].filter(Boolean).join(" ");
      exchange.answer.classList.add("bad");
    }
  }

  #close(wanted) {
    const at = this.#open.findIndex(wanted);
    return at < 0 ? null : this.#open.splice(at, 1)[0];
  }
}
