const player = dashjs.MediaPlayer().create();

stage.load = (film) => {
  const { url, license } = film;
  player.updateSettings({ debug: { logLevel: dashjs.Debug.LOG_LEVEL_NONE } });
  player.initialize();
  for (const name of ["ERROR", "PLAYBACK_ERROR"]) {
    player.on(dashjs.MediaPlayer.events[name], ({ error }) => {
      // The status always stands in the words, as `status is "Forbidden" (403)`, and only sometimes in the data.
      const status = /status is "[^"]*" \((\d+)\)/.exec(error?.message)?.[1];
      const problem = error?.data?.serverResponse;
      stage.fault("dash.js", `${error?.code} ${error?.message}`, status && Number(status), problem);
    });
  }
  // An Authorization header makes dash.js send the request with credentials, unless it is told not to.
  const { headers: httpRequestHeaders } = stage.request(url, film);
  player.setProtectionData({ "org.w3.clearkey": { ...(license && { serverURL: license }), httpRequestHeaders } });
  player.registerLicenseRequestFilter(async (request) => {
    request.url = stage.request(request.url, film).url;
  });
  player.attachView(video);
  player.attachSource(url);
};

stage.tracks = () => ({
  languages: player.isReady() ? [...new Set(player.getTracksFor("audio").map((track) => track.lang))].sort() : [],
  heights: player.isReady()
    ? [...new Set(player.getRepresentationsByType("video").map((one) => one.height))].sort((a, b) => a - b)
    : [],
});
