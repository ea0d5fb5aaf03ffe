// What there is to play: the object that `castellum demo --json` prints, with a fresh token at each call.

export async function describe() {
  const response = await fetch("/api/v1/demo", { cache: "no-store" });
  if (!response.ok) {
    throw new Error(`The appliance answered ${response.status} when it was asked what there is to play.`);
  }
  return await response.json();
}

const HLS_PLAYERS = {
  "hls.js": { id: "hls-hls", label: "hls.js, HLS", form: "hls", module: "hls" },
  shaka: { id: "shaka-hls", label: "shaka, HLS", form: "hls", module: "shaka" },
};

const DASH = { id: "shaka-dash", label: "shaka, DASH", form: "dash", module: "shaka" };

/** The ways to play a stream: one HLS playlist cannot please every player in every scheme. */
export function waysToPlay(stream) {
  const hls = stream.hls_players.map((player) => HLS_PLAYERS[player]).filter(Boolean);
  return stream.dash ? [DASH, ...hls] : hls;
}

export const CONNECTIONS = [
  { id: "plain", label: "HTTP/1.1, plain" },
  { id: "tls", label: "HTTP/2 and 3, TLS" },
];

/** The manifest's URL; over TLS the browser has to trust the demo's CA. */
export function address(demo, stream, form, connection) {
  const url = stream[form];
  return connection === "tls" ? url.replace(demo.origin, demo.origin_tls) : url;
}
