const player = dashjs.MediaPlayer().create();

stage.load = ({ url, license, token }) => {
  player.updateSettings({ debug: { logLevel: dashjs.Debug.LOG_LEVEL_NONE } });
  player.initialize();
  for (const name of ["ERROR", "PLAYBACK_ERROR"]) {
    player.on(dashjs.MediaPlayer.events[name], ({ error }) => {
      // The status always stands in the words, as `status is "Forbidden" (403)`, and only sometimes in the data.
      const status = /status is "[^"]*" \((\d+)\)/.exec(error?.message)?.[1];
      stage.fault("dash.js", `${error?.code} ${error?.message}`, status && Number(status));
    });
  }
  // An Authorization header makes dash.js send the request with credentials, unless it is told not to.
  const httpRequestHeaders = token ? { Authorization: `Bearer ${token}` } : {};
  player.setProtectionData({ "org.w3.clearkey": { ...(license && { serverURL: license }), httpRequestHeaders } });
  player.attachView(video);
  player.attachSource(url);
};

stage.tracks = () => ({
  languages: player.isReady() ? [...new Set(player.getTracksFor("audio").map((track) => track.lang))].sort() : [],
  heights: player.isReady()
    ? [...new Set(player.getRepresentationsByType("video").map((one) => one.height))].sort((a, b) => a - b)
    : [],
});
