import shaka from "shaka-player/dist/shaka-player.compiled.js";

import { grantedKeyIds, keyIdOfUrl, refusal, requestedKeyIds } from "../license.js";

const { RequestType } = shaka.net.NetworkingEngine;
const { Code } = shaka.util.Error;

/**
 * Plays a stream in shaka-player, which finds the licence URL in the manifest. It runs an HLS identity
 * key through the browser's ClearKey as well, after fetching it by itself.
 */
export async function open({ video, url, token, on }) {
  const player = new shaka.Player();
  await player.attach(video);
  // A refusal will not become a licence by asking again.
  player.configure({ drm: { retryParameters: { maxAttempts: 1 } } });
  player.addEventListener("error", ({ detail }) => on.error(describe(detail)));

  const network = player.getNetworkingEngine();
  network.registerRequestFilter((type, request) => {
    if (type === RequestType.LICENSE || type === RequestType.KEY) {
      request.headers.Authorization = `Bearer ${token}`;
      const [target] = request.uris;
      const kids = type === RequestType.KEY ? [keyIdOfUrl(target)] : requestedKeyIds(request.body);
      on.license.asked({ method: request.method, url: target, kids });
    }
  });
  network.registerResponseFilter((type, response) => {
    if (type === RequestType.LICENSE) {
      on.license.answered({ url: response.originalUri, status: response.status, kids: grantedKeyIds(response.data) });
    } else if (type === RequestType.KEY) {
      on.license.answered({
        url: response.originalUri,
        status: response.status,
        kids: [keyIdOfUrl(response.originalUri)],
      });
    }
  });

  /** Words for a viewer; a refused licence is reported on its own. */
  function describe(error) {
    const network = error.code === Code.LICENSE_REQUEST_FAILED ? error.data[0] : error;
    const http = network.code === Code.BAD_HTTP_STATUS;
    if (http && [RequestType.LICENSE, RequestType.KEY].includes(network.data[4])) {
      const [target, status, body] = network.data;
      on.license.refused({ url: target, status, reason: refusal(body) });
    }
    return `shaka-player ${error.category}.${error.code}${http ? `: HTTP ${network.data[1]}` : ""}`;
  }

  try {
    await player.load(url);
  } catch (error) {
    if (error.code !== Code.LOAD_INTERRUPTED) {
      on.error(describe(error));
    }
  }

  return {
    languages: () => [...new Set(player.getAudioTracks().map((track) => track.language))],
    language: () => player.getAudioTracks().find((track) => track.active)?.language,
    speak: (language) => player.selectAudioTrack(player.getAudioTracks().find((track) => track.language === language)),
    close: () => player.destroy(),
  };
}
