// What every player's page has in common. The player's own file adds `load` and `tracks`.

const video = document.querySelector("video");

window.stage = {
  faults: [],

  /** Records an error that a viewer would suffer from; `status` is the HTTP status that the player saw. */
  fault(source, what, status) {
    this.faults.push({ source, what: String(what), status: status ?? null });
  },

  seek(time) {
    video.currentTime = time;
  },

  /** Whether the film ran through the whole of this stretch of its time, without a jump. */
  played(from, to) {
    const slack = 0.35; // a seek lands on a frame, and a start on the first one
    for (let i = 0; i < video.played.length; i++) {
      if (video.played.start(i) <= from + slack && video.played.end(i) >= to) {
        return true;
      }
    }
    return false;
  },

  state() {
    const quality = video.getVideoPlaybackQuality();
    return {
      time: video.currentTime,
      frames: quality.totalVideoFrames - quality.droppedVideoFrames,
      width: video.videoWidth,
      ready: video.readyState,
      paused: video.paused,
      faults: this.faults,
      ...this.tracks(),
    };
  },
};

video.addEventListener("error", () => stage.fault("video", `MediaError ${video.error?.code} ${video.error?.message}`));
