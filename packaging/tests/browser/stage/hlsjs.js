let hls;

// Reports of a slow machine, not of a bad stream; the player mends them by waiting or by a nudge.
const PATIENCE = ["bufferStalledError", "bufferNudgeOnStall"];

stage.load = (film) => {
  const { url, license } = film;
  hls = new Hls({
    emeEnabled: Boolean(license),
    drmSystems: license ? { "org.w3.clearkey": { licenseUrl: license } } : {},
    licenseXhrSetup(xhr, target) {
      const asked = stage.request(target, film);
      xhr.open("POST", asked.url, true);
      for (const [name, value] of Object.entries({ "Content-Type": "application/json", ...asked.headers })) {
        xhr.setRequestHeader(name, value);
      }
    },
  });
  hls.on(Hls.Events.ERROR, (_, { details, response, networkDetails, fatal }) => {
    if (fatal || !PATIENCE.includes(details)) {
      const answered = networkDetails instanceof XMLHttpRequest && response?.code;
      const problem = answered ? stage.problem(networkDetails.response) : null;
      const again = answered ? networkDetails.getResponseHeader("Retry-After") : null;
      stage.fault("hls.js", details, response?.code, problem, again);
    }
  });
  hls.loadSource(url);
  hls.attachMedia(video);
};

stage.tracks = () => ({
  languages: [...new Set(hls?.audioTracks.map((track) => track.lang))].sort(),
  heights: [...new Set(hls?.levels.map((level) => level.height))].sort((a, b) => a - b),
});
