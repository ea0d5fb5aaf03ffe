// What every player's page has in common. The player's own file adds `load` and `tracks`.

const video = document.querySelector("video");

window.stage = {
  faults: [],

  /** Every key session that the player opened. */
  sessions: [],

  /**
   * Records an error that a viewer would suffer from; `status` is the HTTP status that the player saw, `problem` the
   * document that came with it and `retryAfter` its header, as far as the player hands them to the page.
   */
  fault(source, what, status, problem, retryAfter) {
    const code = problem?.code ?? null;
    this.faults.push({ source, what: String(what), status: status ?? null, code, retryAfter: retryAfter ?? null });
  },

  /** The problem in a body, if it is one. */
  problem(body) {
    try {
      return JSON.parse(typeof body === "string" ? body : new TextDecoder().decode(body));
    } catch {
      return null;
    }
  },

  /**
   * Where a licence is asked for, and with which headers: `place` says where the token stands, in the query or a header
   * of its own; else it is the bearer's.
   */
  request(url, { token, place = {}, headers = {} }) {
    const sent = { ...headers };
    if (token && place.query) {
      const target = new URL(url);
      target.searchParams.set(place.query, token);
      return { url: target.href, headers: sent };
    }
    if (token && place.header) {
      sent[place.header] = token;
    } else if (token) {
      sent.Authorization = `Bearer ${token}`;
    }
    return { url, headers: sent };
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
      height: video.videoHeight,
      keys: this.sessions.flatMap((session) => [...session.keyStatuses.values()]),
      ready: video.readyState,
      paused: video.paused,
      faults: this.faults,
      ...this.tracks(),
    };
  },
};

video.addEventListener("error", () => stage.fault("video", `MediaError ${video.error?.code} ${video.error?.message}`));

// A page cannot ask a video element for the sessions of its keys.
const { createSession } = MediaKeys.prototype;
MediaKeys.prototype.createSession = function (...type) {
  const session = createSession.apply(this, type);
  stage.sessions.push(session);
  return session;
};
