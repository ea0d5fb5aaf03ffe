// The player page: choose, play, and see what went over the wire.

import { address, CONNECTIONS, describe, waysToPlay } from "./demo.js";
import { Exchanges } from "./exchanges.js";
import { make } from "./element.js";
import { Responses } from "./responses.js";

const $ = (id) => document.getElementById(id);

const video = $("video");
const choices = $("choices");
const { asset, policy, player, connection } = choices.elements;
const exchanges = new Exchanges($("license"));
const responses = new Responses($("responses"), $("protocols"));

const PLAYERS = {
  shaka: () => import("./players/shaka.js"),
  hls: () => import("./players/hls.js"),
};

let demo;
let playing = null;
let run = 0;
let turn = Promise.resolve();

// Choices: each list depends on the one before it.

function offer(select, options) {
  const before = select.value;
  select.replaceChildren(
    ...options.map(({ id, label, disabled = false }) => Object.assign(new Option(label, id), { disabled })),
  );
  const kept = options.find((option) => option.id === before && !option.disabled);
  const first = options.find((option) => !option.disabled);
  select.value = (kept ?? first)?.id ?? "";
}

function offerPolicies() {
  const { streams } = demo.assets.find(({ id }) => id === asset.value);
  offer(
    policy,
    streams.map((stream) => ({
      id: stream.policy,
      label: stream.policy,
      disabled: stream.scheme !== "clear" && !canDecrypt(),
    })),
  );
  offerPlayers();
}

function offerPlayers() {
  const stream = chosenStream();
  offer(player, stream ? waysToPlay(stream) : []);
  showAddress();
}

function chosenStream() {
  const { streams } = demo.assets.find(({ id }) => id === asset.value);
  return streams.find((stream) => stream.policy === policy.value);
}

function chosenWay() {
  return waysToPlay(chosenStream()).find(({ id }) => id === player.value);
}

function showAddress() {
  const stream = chosenStream();
  const way = stream && chosenWay();
  $("url").value = way ? address(demo, stream, way.form, connection.value) : "";
}

/** Browsers decrypt in secure contexts only: HTTPS, or plain HTTP on this very machine. */
function canDecrypt() {
  return window.isSecureContext && "requestMediaKeySystemAccess" in navigator;
}

// Playing.

async function play(mine) {
  const stream = chosenStream();
  const way = chosenWay();
  await stop();
  demo = await describe(); // a token that has its hour before it
  const url = address(demo, stream, way.form, connection.value);
  responses.watch([demo.origin, demo.origin_tls, demo.license, demo.license_tls]);
  exchanges.clear(stream.scheme === "clear" ? "The film is clear: no licence is needed." : "No request yet.");
  event(`${way.label}, policy ${stream.policy}`);

  const { open } = await PLAYERS[way.module]();
  const opened = await open({ video, url, license: stream.license, token: demo.token, on: watcher(mine) });
  if (mine !== run) {
    return opened.close();
  }
  playing = opened;
  offerLanguages();
  video.play().catch((error) => {
    // A film that gives way to the next choice is no fault.
    if (mine === run && error.name !== "AbortError") {
      event(`The browser did not start the film: ${error.message}`, "bad");
    }
  });
}

async function stop() {
  const before = playing;
  playing = null;
  await before?.close();
}

function offerLanguages() {
  const names = new Intl.DisplayNames(document.documentElement.lang, { type: "language", fallback: "code" });
  const label = (code) => (/^[a-z]{2,3}(-|$)/i.test(code) && code !== "und" ? names.of(code) : code);
  const select = $("language");
  offer(
    select,
    playing.languages().map((code) => ({ id: code, label: label(code) })),
  );
  select.value = playing.language() ?? select.value;
  select.disabled = select.options.length < 2;
}

/** What a player tells of its work; a player that was closed in the meantime is not heard. */
function watcher(mine) {
  const heard = (tell) => (what) => mine === run && tell(what);
  return {
    error: heard((words) => {
      event(words, "bad");
      if (connection.value === "tls") {
        notice(`Over TLS the browser has to trust the demo's CA: ${demo.ca}`);
      }
    }),
    license: {
      asked: heard((request) => exchanges.asked(request)),
      answered: heard((answer) => exchanges.answered(answer)),
      refused: heard((answer) => exchanges.refused(answer)),
    },
  };
}

// Showing.

function event(words, className) {
  const item = make("li");
  item.append(make("time", new Date().toLocaleTimeString()), make("span", words, className));
  $("events").prepend(item);
}

function notice(words) {
  $("notice").textContent = words;
  $("notice").hidden = false;
}

function showProgress() {
  const { totalVideoFrames, droppedVideoFrames } = video.getVideoPlaybackQuality();
  const { buffered, currentTime } = video;
  let ahead = 0;
  for (let i = 0; i < buffered.length; i++) {
    if (buffered.start(i) <= currentTime && currentTime <= buffered.end(i)) {
      ahead = buffered.end(i) - currentTime;
    }
  }
  $("picture").textContent = video.videoWidth ? `${video.videoWidth} × ${video.videoHeight}` : "–";
  $("buffered").textContent = `${ahead.toFixed(1)} s`;
  $("decoded").textContent = `${totalVideoFrames} frames, ${droppedVideoFrames} dropped`;
}

const TOLD = {
  playing: "Playing",
  waiting: "Waiting for data",
  seeking: "Seeking",
  ended: "The end",
};

for (const [name, words] of Object.entries(TOLD)) {
  video.addEventListener(name, () => event(`${words} at ${video.currentTime.toFixed(1)} s`));
}
video.addEventListener("resize", () => event(`Picture is ${video.videoWidth} × ${video.videoHeight}`));
video.addEventListener("error", () => event(`Media error ${video.error.code}: ${video.error.message}`, "bad"));
video.addEventListener("timeupdate", showProgress);
video.addEventListener("progress", showProgress);

// Starting.

asset.addEventListener("change", offerPolicies);
policy.addEventListener("change", offerPlayers);
player.addEventListener("change", showAddress);
connection.addEventListener("change", showAddress);
choices.addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  start();
});
$("language").addEventListener("change", ({ target }) => playing?.speak(target.value));
$("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText($("url").value);
  event("The stream's URL is copied");
});

/** One film after the other: a player that is still being opened would take the video element from the next one. */
function start() {
  const mine = ++run;
  turn = turn.then(async () => {
    if (mine !== run) {
      return;
    }
    $("notice").hidden = true;
    try {
      await play(mine);
    } catch (error) {
      notice(error.message);
    }
  });
  return turn;
}

try {
  demo = await describe();
  offer(
    asset,
    demo.assets.map(({ id }) => ({ id, label: id })),
  );
  offer(connection, CONNECTIONS);
  offerPolicies();
  if (canDecrypt()) {
    await start();
  } else {
    notice(
      "Browsers decrypt only in a secure context, and this page is not in one. " +
        "Open it over HTTPS, or as http://127.0.0.1 on the machine itself. Clear films play here too.",
    );
  }
} catch (error) {
  notice(error.message);
}
