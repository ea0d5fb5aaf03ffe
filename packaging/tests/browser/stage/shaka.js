const player = new shaka.Player();

stage.load = async (film) => {
  const { url, license } = film;
  shaka.polyfill.installAll();
  await player.attach(video);
  // The stream is judged here, not the machine: where that is busy and drops frames, the player would disable the stream of
  // that height for a while, and no longer list it.
  player.configure({ abr: { droppedFrames: false } });
  player.addEventListener("error", ({ detail }) => blame(detail));
  if (license) {
    player.configure({ drm: { servers: { "org.w3.clearkey": license } } });
  }
  const { RequestType } = shaka.net.NetworkingEngine;
  player.getNetworkingEngine().registerRequestFilter((type, request) => {
    if (type === RequestType.LICENSE || type === RequestType.KEY) {
      const asked = request.uris.map((uri) => stage.request(uri, film));
      request.uris = asked.map((one) => one.url);
      Object.assign(request.headers, asked[0].headers);
    }
  });
  // Not awaited: a refused licence is a fault to be waited for, not a failed call.
  player.load(url).catch(blame);
};

stage.tracks = () => ({
  languages: [...new Set(player.getAudioTracks().map((track) => track.language))].sort(),
  heights: [...new Set(player.getVariantTracks().map((track) => track.height))].sort((a, b) => a - b),
});

function blame(error) {
  const { Code } = shaka.util.Error;
  // LICENSE_REQUEST_FAILED holds the network error, whose data begins with URL and status.
  const network = error.code === Code.LICENSE_REQUEST_FAILED ? error.data[0] : error;
  // Then URL, status, body and headers.
  const [, status, body, headers] = network.code === Code.BAD_HTTP_STATUS ? network.data : [];
  if (error.code !== Code.LOAD_INTERRUPTED) {
    stage.fault("shaka", `${error.category}.${error.code}`, status, stage.problem(body), headers?.["retry-after"]);
  }
}
