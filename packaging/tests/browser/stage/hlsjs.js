let hls;

// Reports of a slow machine, not of a bad stream; the player mends them by waiting or by a nudge.
const PATIENCE = ["bufferStalledError", "bufferNudgeOnStall"];

stage.load = ({ url, license, token }) => {
  const authorize = (xhr) => token && xhr.setRequestHeader("Authorization", `Bearer ${token}`);
  hls = new Hls({
    emeEnabled: Boolean(license),
    drmSystems: license ? { "org.w3.clearkey": { licenseUrl: license } } : {},
    licenseXhrSetup(xhr, target) {
      xhr.open("POST", target, true);
      xhr.setRequestHeader("Content-Type", "application/json");
      authorize(xhr);
    },
  });
  hls.on(Hls.Events.ERROR, (_, { details, response, fatal }) => {
    if (fatal || !PATIENCE.includes(details)) {
      stage.fault("hls.js", details, response?.code);
    }
  });
  hls.loadSource(url);
  hls.attachMedia(video);
};

stage.tracks = () => ({
  languages: [...new Set(hls?.audioTracks.map((track) => track.lang))].sort(),
  heights: [...new Set(hls?.levels.map((level) => level.height))].sort((a, b) => a - b),
});
