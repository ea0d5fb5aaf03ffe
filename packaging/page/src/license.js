// Reads the two open licence exchanges for display: which keys were asked for, which were given.
// Keys themselves are dropped here and go no further than the player.

/** An EME ClearKey request: `{"kids": [base64url, ...]}`. */
export function requestedKeyIds(body) {
  return parse(body)?.kids?.map(uuid) ?? [];
}

/** An EME ClearKey licence: `{"keys": [{"kid": base64url, ...}, ...]}`. */
export function grantedKeyIds(body) {
  return parse(body)?.keys?.map((key) => uuid(key.kid)) ?? [];
}

/** The key id at the end of an HLS key URL, `/license/hls/{asset}/{kid}`. */
export function keyIdOfUrl(url) {
  return new URL(url).pathname.split("/").at(-1);
}

/** The title of a refusal (RFC 9457), if that is what the body is. */
export function refusal(body) {
  const problem = parse(body);
  return problem?.detail ?? problem?.title ?? null;
}

function parse(body) {
  try {
    return JSON.parse(typeof body === "string" ? body : new TextDecoder().decode(body));
  } catch {
    return null;
  }
}

function uuid(base64url) {
  const binary = atob(base64url.replaceAll("-", "+").replaceAll("_", "/"));
  const hex = Array.from(binary, (byte) => byte.charCodeAt(0).toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
