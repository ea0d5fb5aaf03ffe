import Hls from "hls.js";

import { grantedKeyIds, refusal, requestedKeyIds } from "../license.js";

/** Plays a stream in hls.js, which is told the licence URL by the page. */
export async function open({ video, url, license, token, on }) {
  const hls = new Hls({
    emeEnabled: Boolean(license),
    drmSystems: license ? { "org.w3.clearkey": { licenseUrl: license } } : {},
    licenseXhrSetup(xhr, target, _context, challenge) {
      xhr.open("POST", target, true);
      xhr.setRequestHeader("Content-Type", "application/json");
      xhr.setRequestHeader("Authorization", `Bearer ${token}`);
      on.license.asked({ method: "POST", url: target, kids: requestedKeyIds(challenge) });
      xhr.addEventListener("load", () => {
        if (xhr.status === 200) {
          on.license.answered({ url: target, status: xhr.status, kids: grantedKeyIds(xhr.response) });
        } else {
          on.license.refused({ url: target, status: xhr.status, reason: refusal(xhr.response) });
        }
      });
    },
  });

  hls.on(Hls.Events.ERROR, (_event, { details, fatal, response }) => {
    if (fatal) {
      on.error(`hls.js ${details}${response?.code ? `: HTTP ${response.code}` : ""}`);
    }
  });
  const ready = new Promise((resolve) => {
    hls.once(Hls.Events.MANIFEST_PARSED, resolve);
    hls.once(Hls.Events.ERROR, resolve);
  });
  hls.loadSource(url);
  hls.attachMedia(video);
  await ready;

  return {
    languages: () => hls.audioTracks.map((track) => track.lang ?? track.name),
    language: () => hls.audioTracks[hls.audioTrack]?.lang,
    speak(language) {
      hls.audioTrack = hls.audioTracks.findIndex((track) => track.lang === language);
    },
    close: () => hls.destroy(),
  };
}
