//! One viewer of one title: what he asks for next, and when. Pure: time and chance are arguments.
//!
//! ```text
//! manifest, init segments, licences -> (buffer says when, throughput says which rung) segment -> ... -> end
//!                                   ^                                                     |
//!                                   +---- another rung, a seek ---------------------------+
//! ```

mod buffer;
mod throughput;

use std::time::Duration;

pub use buffer::Buffer;
pub use throughput::Throughput;

use crate::player::{Errand, Fault, Player};
use crate::random::Random;

/// Film nearer to a mark than this counts as having reached it: clocks count nanoseconds, film is a fraction.
const ROUNDING: f64 = 1e-5;

/// What a viewer is about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Behaviour {
    /// Watches at the speed of film, as a player that adapts its bit rate: an open loop.
    Watch(Watch),
    /// Asks for the next segments when the last have come, to the end of the title: a closed loop, which finds what a
    /// server can do and not what a film needs.
    Hurry {
        /// Where in the title.
        start: Start,
    },
    /// Asks for the keys of a title, again for each period of them, and leaves.
    Licence(Licences),
}

/// What is asked of a licence server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Licences {
    /// How many periods of the keys a viewer stays for, at least one.
    pub periods: u32,
    /// Seconds of a period.
    pub period: f64,
    /// Whether each viewer has a token of his own, or all have the target's.
    pub own_tokens: bool,
}

impl Default for Licences {
    /// One period, and the target's token.
    fn default() -> Self {
        Self {
            periods: 1,
            period: 10.0,
            own_tokens: false,
        }
    }
}

/// How a title is watched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Watch {
    /// Seconds of film after which the viewer leaves; without, he stays to the end.
    pub session: Option<f64>,
    /// The rung to begin with, from the lowest, 0.
    pub start_rung: usize,
    /// Seconds of film that are kept ahead.
    pub buffer: f64,
    /// How much faster than film; 1 for people.
    pub pace: f64,
    /// Mean seconds of film between two seeks; without, there are none.
    pub seek_every: Option<f64>,
    /// Where in the title.
    pub start: Start,
}

/// Where in a title viewers begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// At its first segment.
    Beginning,
    /// At any, one as likely as the other.
    Anywhere,
}

/// What is to be done now.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Fetch these, all at once; then [`Viewer::take`] each and say that they are [`Viewer::done`].
    Fetch {
        /// When they were meant to be asked for; `None` in a closed loop, which means nothing before it asks.
        due: Option<Duration>,
        /// What.
        errands: Vec<Errand>,
    },
    /// Nothing before this time.
    Wait(Duration),
    /// The viewer has left.
    End,
}

/// What a viewer went through.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Experience {
    /// Segments of the ladder that came.
    pub segments: u64,
    /// The sum of their rungs, the lowest being 0.
    pub rungs: u64,
    /// Changes from one rung to another.
    pub switches: u64,
    /// Seeks.
    pub seeks: u64,
    /// How often the picture stopped because nothing was there.
    pub stalls: u64,
    /// How long it did.
    pub stalled: Duration,
}

/// A viewer.
#[derive(Debug)]
pub struct Viewer {
    player: Player,
    behaviour: Behaviour,
    random: Random,
    /// Since when he has wanted what comes next, while his buffer does not say otherwise.
    wanted: Duration,
    rung: usize,
    /// The next segment; `None` before the title is known.
    index: Option<usize>,
    /// Segments of the title, which its rungs have in common.
    len: usize,
    buffer: Buffer,
    throughput: Throughput,
    /// Seconds of film after which he seeks.
    next_seek: Option<f64>,
    turn: Turn,
    /// Where keys were asked for, and since when each period is counted.
    licences: Vec<Errand>,
    came: Duration,
    /// Periods whose keys he has had, once he has the first.
    renewed: u32,
    /// He was told not to ask before.
    not_before: Duration,
    experience: Experience,
}

/// What was asked for last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Missing,
    Segments,
    Renewal,
}

impl Viewer {
    /// One who comes `now`, for a title that may be known in part. His `seat` tells him from his neighbours.
    pub fn new(
        player: Player,
        behaviour: Behaviour,
        seat: usize,
        mut random: Random,
        now: Duration,
    ) -> Self {
        let (buffer, rung, next_seek) = match behaviour {
            Behaviour::Watch(watch) => (
                Buffer::new(watch.buffer, watch.pace, now),
                watch.start_rung,
                watch.seek_every.map(|mean| mean * random.exponential()),
            ),
            // Together they ask for every rung.
            Behaviour::Hurry { .. } => (Buffer::new(0.0, 1.0, now), seat, None),
            Behaviour::Licence(_) => (Buffer::new(0.0, 1.0, now), 0, None),
        };
        Self {
            player,
            behaviour,
            random,
            wanted: now,
            rung,
            index: None,
            len: 0,
            buffer,
            throughput: Throughput::default(),
            next_seek,
            turn: Turn::Missing,
            licences: Vec::new(),
            came: now,
            renewed: 0,
            not_before: Duration::ZERO,
            experience: Experience::default(),
        }
    }

    /// What to do at `now`.
    pub fn step(&mut self, now: Duration) -> Step {
        if now < self.not_before {
            return Step::Wait(self.not_before);
        }
        let ladder = self.player.ladder();
        if let Behaviour::Hurry { .. } = self.behaviour
            && self.index.is_none()
            && !ladder.is_empty()
        {
            self.rung %= ladder.len();
        }
        if self.index.is_none() {
            if let Some(step) = self.missing(self.wanted) {
                return step;
            }
            let start = match self.behaviour {
                Behaviour::Licence(rule) => return self.renew(rule, now),
                Behaviour::Watch(Watch { start, .. }) | Behaviour::Hurry { start } => start,
            };
            self.rung = self.rung.min(ladder.len().saturating_sub(1));
            self.len = self.player.len(self.rung);
            self.index = Some(match start {
                Start::Beginning => 0,
                Start::Anywhere => self.random.below(self.len),
            });
        }
        let index = self.index.unwrap_or(0);
        match self.behaviour {
            Behaviour::Licence(_) => Step::End,
            Behaviour::Hurry { .. } => self.segments(index, now),
            Behaviour::Watch(watch) => self.watch(&watch, &ladder, index, now),
        }
    }

    fn watch(&mut self, watch: &Watch, ladder: &[u64], mut index: usize, now: Duration) -> Step {
        if index >= self.len && now >= self.buffer.dry_at() {
            return Step::End; // not a stall: there is no more
        }
        self.buffer.advance(now);
        let watched = self.buffer.watched() + ROUNDING;
        if watch.session.is_some_and(|session| watched >= session) {
            return Step::End;
        }
        if let (Some(mark), Some(mean)) = (self.next_seek, watch.seek_every)
            && watched >= mark
        {
            index = self.random.below(self.len);
            self.index = Some(index);
            self.buffer.clear(now);
            // While he waited for an answer, the picture went on beyond the mark.
            let since = Duration::try_from_secs_f64((watched - mark) / watch.pace);
            self.wanted = now.saturating_sub(since.unwrap_or_default());
            self.next_seek = Some(watched + mean * self.random.exponential());
            self.experience.seeks += 1;
        }
        let next = if index >= self.len {
            self.buffer.dry_at()
        } else {
            self.buffer.due().unwrap_or(self.wanted)
        };
        if next > now {
            let marks = [watch.session, self.next_seek];
            let marks = marks
                .iter()
                .flatten()
                .filter_map(|mark| self.buffer.watched_at(*mark));
            return Step::Wait(marks.fold(next, Duration::min));
        }
        let rung = self.throughput.rung(ladder, watch.pace, watch.start_rung);
        if rung != self.rung {
            self.experience.switches += 1;
            self.rung = rung;
        }
        if let Some(step) = self.missing(next) {
            return step;
        }
        self.segments(index, next)
    }

    /// The keys of the next period, when it begins.
    fn renew(&mut self, rule: Licences, now: Duration) -> Step {
        let period = self.renewed + 1;
        if period >= rule.periods || self.licences.is_empty() {
            return Step::End;
        }
        let begins = Duration::try_from_secs_f64(rule.period * f64::from(period));
        let due = self.came.saturating_add(begins.unwrap_or(Duration::MAX));
        if now < due {
            return Step::Wait(due);
        }
        self.turn = Turn::Renewal;
        let number = usize::try_from(period).unwrap_or(usize::MAX);
        let errands = self.licences.iter();
        let errands = errands.filter_map(|licence| licence.renewal(number));
        self.fetch(due, errands.collect())
    }

    fn missing(&mut self, due: Duration) -> Option<Step> {
        let errands = self.player.missing(self.rung);
        self.turn = Turn::Missing;
        if let [Errand::Licence { .. }, ..] = errands[..] {
            self.licences.clone_from(&errands);
        }
        (!errands.is_empty()).then(|| self.fetch(due, errands))
    }

    fn segments(&mut self, index: usize, due: Duration) -> Step {
        let errands = self.player.segments(self.rung, index);
        self.turn = Turn::Segments;
        if errands.is_empty() {
            Step::End
        } else {
            self.fetch(due, errands)
        }
    }

    fn fetch(&self, due: Duration, errands: Vec<Errand>) -> Step {
        let due = match self.behaviour {
            Behaviour::Hurry { .. } => None,
            Behaviour::Watch(_) | Behaviour::Licence(_) => Some(due.max(self.not_before)),
        };
        Step::Fetch { due, errands }
    }

    /// Takes what an errand brought.
    ///
    /// # Errors
    /// Where it cannot be read, or contradicts what came before.
    pub fn take(&mut self, errand: &Errand, body: &[u8]) -> Result<(), Fault> {
        self.player.take(errand, body)
    }

    /// The server has no time before then: he asks again.
    pub fn told_to_wait(&mut self, until: Duration) {
        self.not_before = until;
    }

    /// All errands of a step have come: so many bytes, in the time that they `took` since they were asked for.
    pub fn done(&mut self, now: Duration, bytes: u64, took: Duration) {
        if self.turn == Turn::Segments {
            let index = self.index.unwrap_or(0);
            let film = self.player.duration(self.rung, index);
            self.throughput.record(bytes, took);
            self.buffer.add(film.as_secs_f64(), now);
            self.index = Some(index + 1);
            self.experience.segments += 1;
            self.experience.rungs += self.rung as u64;
        }
        if self.turn == Turn::Renewal {
            self.renewed += 1;
        }
        self.wanted = now;
    }

    /// What he plays.
    pub fn player(&self) -> &Player {
        &self.player
    }

    /// What he went through until now.
    pub fn experience(&self) -> Experience {
        let (stalls, stalled) = match self.behaviour {
            Behaviour::Watch(_) => (self.buffer.stalls(), self.buffer.stalled()),
            Behaviour::Hurry { .. } | Behaviour::Licence(_) => (0, Duration::ZERO),
        };
        Experience {
            stalls,
            stalled,
            ..self.experience
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mp4::testing::header;
    use crate::player::Format;
    use url::Url;

    const WATCH: Watch = Watch {
        session: None,
        start_rung: 0,
        buffer: 8.0,
        pace: 1.0,
        seek_every: None,
        start: Start::Beginning,
    };

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// Three rungs of ten segments of 4 s.
    fn viewer(behaviour: Behaviour, seed: u64) -> Viewer {
        let url = Url::parse("http://o/main.m3u8").unwrap();
        let player = Player::new(Format::Hls, url, 0);
        Viewer::new(player, behaviour, 1, Random::seeded(seed), at(1.0))
    }

    fn body(errand: &Errand) -> Vec<u8> {
        match errand {
            Errand::Manifest(_) => [1, 3, 6]
                .map(|rung| format!("#EXT-X-STREAM-INF:BANDWIDTH={rung}000000\n{rung}.m3u8\n"))
                .concat()
                .replacen("#EXT-X", "#EXTM3U\n#EXT-X", 1)
                .into_bytes(),
            Errand::Playlist(..) => {
                let segments: String = (0..10).map(|n| format!("#EXTINF:4,\n{n}\n")).collect();
                format!("#EXTM3U\n#EXT-X-MAP:URI=\"i\"\n{segments}").into_bytes()
            }
            Errand::Init(..) => header(b"avc1", None),
            Errand::Licence { .. } | Errand::Renewal { .. } | Errand::Segment { .. } => Vec::new(),
        }
    }

    /// What he asks for: when it was due, and the file's last name; each answer takes so long and, if a segment,
    /// brings so many bytes. Returns also when he left.
    fn life(
        viewer: &mut Viewer,
        took: Duration,
        bytes: u64,
    ) -> (Vec<(Option<Duration>, String)>, Duration) {
        let mut now = at(1.0);
        let mut asked = Vec::new();
        loop {
            match viewer.step(now) {
                Step::End => return (asked, now),
                Step::Wait(until) => {
                    assert!(until > now, "a wait that ends at once would never end");
                    now = until;
                }
                Step::Fetch { due, errands } => {
                    for errand in &errands {
                        let name = match errand {
                            Errand::Manifest(url)
                            | Errand::Playlist(_, url)
                            | Errand::Init(_, url) => url.path(),
                            Errand::Segment { url, .. } => url.path(),
                            Errand::Licence { .. } => "licence",
                            Errand::Renewal { .. } => "renewal",
                        };
                        asked.push((due, name.trim_start_matches('/').to_owned()));
                        viewer.take(errand, &body(errand)).unwrap();
                    }
                    now += took;
                    viewer.done(now, bytes, took);
                }
            }
            assert!(asked.len() < 500, "he never leaves");
        }
    }

    fn names(asked: &[(Option<Duration>, String)]) -> Vec<&str> {
        asked.iter().map(|(_, name)| name.as_str()).collect()
    }

    #[test]
    fn watches_a_title_to_its_end_at_the_speed_of_film() {
        let mut viewer = viewer(Behaviour::Watch(WATCH), 0);
        let (asked, left) = life(&mut viewer, Duration::ZERO, 0);
        assert_eq!(names(&asked)[..3], ["main.m3u8", "1.m3u8", "i"]);
        assert_eq!(
            names(&asked)[3..],
            ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
        );
        let due: Vec<_> = asked[3..]
            .iter()
            .map(|(due, _)| due.unwrap().as_secs())
            .collect();
        // Two to fill 8 s, then one for each that was watched; and in the end the buffer is watched.
        assert_eq!(due, [1, 1, 1, 5, 9, 13, 17, 21, 25, 29]);
        assert_eq!(left, at(41.0));
        let experience = viewer.experience();
        assert_eq!((experience.segments, experience.stalls), (10, 0));
    }

    #[test]
    fn times_that_are_due_do_not_wait_for_late_answers() {
        let mut viewer = viewer(Behaviour::Watch(WATCH), 0);
        // Each answer takes half as long as what it brings is watched.
        let (asked, _) = life(&mut viewer, at(2.0), 1000);
        let due: Vec<_> = asked[3..]
            .iter()
            .map(|(due, _)| due.unwrap().as_secs_f64())
            .collect();
        let steady = due.windows(2).skip_while(|pair| pair[1] - pair[0] < 3.0);
        assert!(
            steady.clone().count() >= 4 && steady.clone().all(|pair| pair[1] - pair[0] == 4.0),
            "{due:?}"
        );
        assert_eq!(viewer.experience().stalls, 0);
    }

    #[test]
    fn a_slow_line_stalls_and_the_time_is_told() {
        let mut viewer = viewer(Behaviour::Watch(WATCH), 0);
        let (_, left) = life(&mut viewer, at(5.0), 1000);
        let Experience {
            stalls, stalled, ..
        } = viewer.experience();
        assert_eq!((stalls, stalled), (9, at(9.0)), "5 s for 4 s of film");
        // Opening, ten answers, and the last of them is watched.
        assert_eq!(left, at(1.0 + 13.0 * 5.0 + 4.0));
    }

    #[test]
    fn a_fast_line_raises_the_rung_with_what_it_needs() {
        let mut viewer = viewer(Behaviour::Watch(WATCH), 0);
        let (asked, _) = life(&mut viewer, at(0.5), 1_000_000);
        // 16 Mb/s: from the second segment on the highest, whose playlist and init segment come first.
        assert_eq!(names(&asked)[3..7], ["0", "6.m3u8", "i", "1"]);
        let Experience {
            switches, rungs, ..
        } = viewer.experience();
        assert_eq!((switches, rungs), (1, 9 * 2));
    }

    #[test]
    fn a_falling_line_lowers_the_rung() {
        let start = Watch {
            start_rung: 2,
            ..WATCH
        };
        let mut viewer = viewer(Behaviour::Watch(start), 0);
        let (asked, _) = life(&mut viewer, at(1.0), 100_000);
        assert_eq!(names(&asked)[1], "6.m3u8");
        assert_eq!(names(&asked)[3..7], ["0", "1.m3u8", "i", "1"]);
    }

    #[test]
    fn a_session_ends_when_it_was_watched() {
        let session = Watch {
            session: Some(10.0),
            ..WATCH
        };
        let mut viewer = viewer(Behaviour::Watch(session), 0);
        let (asked, left) = life(&mut viewer, Duration::ZERO, 0);
        assert_eq!(left, at(11.0));
        assert_eq!(
            asked.len() - 3,
            5,
            "what was kept ahead was fetched in vain, as it is"
        );
    }

    #[test]
    fn seeks_empty_the_buffer_and_the_seed_decides_them() {
        let seeking = Watch {
            session: Some(60.0),
            seek_every: Some(3.0),
            ..WATCH
        };
        let life = |seed| {
            let mut viewer = viewer(Behaviour::Watch(seeking), seed);
            let (asked, left) = life(&mut viewer, at(0.01), 10);
            (asked, left, viewer.experience())
        };
        let (asked, left, experience) = life(1);
        let segments: Vec<usize> = names(&asked)[3..]
            .iter()
            .map(|n| n.parse().unwrap())
            .collect();
        let jumps = segments.windows(2).filter(|pair| pair[1] != pair[0] + 1);
        assert!(jumps.count() >= 2, "{segments:?}");
        assert!(
            experience.seeks >= 3 && experience.stalls == 0,
            "{experience:?}"
        );
        assert_eq!((asked.clone(), left, experience), life(1));
        assert_ne!(asked, life(2).0);
    }

    #[test]
    fn a_seek_is_due_when_it_was_meant_though_an_answer_was_awaited() {
        let seeking = Watch {
            seek_every: Some(1000.0),
            ..WATCH
        };
        let mut viewer = viewer(Behaviour::Watch(seeking), 0);
        viewer.next_seek = Some(3.0);
        let mut now = at(1.0);
        for _ in 0..6 {
            let Step::Fetch { errands, .. } = viewer.step(now) else {
                panic!("opening, and three segments")
            };
            for errand in &errands {
                viewer.take(errand, &body(errand)).unwrap();
            }
            // Only the third segment takes long.
            if matches!(errands[0], Errand::Segment { index: 2, .. }) {
                now = at(6.0);
            }
            viewer.done(now, 10, at(1.0));
        }
        let Step::Fetch { due, .. } = viewer.step(now) else {
            panic!("he seeks")
        };
        // Watched since 1 s, the mark is reached at 4 s.
        assert!(
            due.unwrap().abs_diff(at(4.0)) < Duration::from_millis(1),
            "{due:?}"
        );
        assert_eq!(viewer.experience().seeks, 1);
    }

    #[test]
    fn pace_shortens_a_life_and_its_end_is_no_stall() {
        for pace in [3.0, 7.0, 7.3, 20.0, 33.0] {
            let fast = Watch { pace, ..WATCH };
            let mut viewer = viewer(Behaviour::Watch(fast), 0);
            let (_, left) = life(&mut viewer, Duration::ZERO, 0);
            let film = left.saturating_sub(at(1.0)).as_secs_f64() * pace;
            assert!((film - 40.0).abs() < 1e-4, "{film} s at {pace}");
            assert_eq!(viewer.experience().stalls, 0, "at {pace}");
        }
    }

    #[test]
    fn one_in_a_hurry_asks_when_he_was_answered() {
        let hurry = Behaviour::Hurry {
            start: Start::Beginning,
        };
        let mut viewer = viewer(hurry, 0);
        let (asked, left) = life(&mut viewer, at(0.1), 10);
        assert!(asked.iter().all(|(due, _)| due.is_none()));
        // Seat 1 of three rungs is the second.
        assert_eq!(names(&asked)[..4], ["main.m3u8", "3.m3u8", "i", "0"]);
        assert_eq!((asked.len(), left), (13, at(2.3)));
        let anywhere = Behaviour::Hurry {
            start: Start::Anywhere,
        };
        let starts = (0..20).map(|seed| {
            names(&life(&mut self::viewer(anywhere, seed), at(0.1), 10).0)[3].to_owned()
        });
        assert!(starts.collect::<std::collections::BTreeSet<_>>().len() > 3);
    }

    #[test]
    fn one_who_wants_a_licence_leaves_with_it() {
        let mut viewer = viewer(Behaviour::Licence(Licences::default()), 0);
        let (asked, _) = life(&mut viewer, at(0.1), 10);
        assert_eq!(
            names(&asked),
            ["main.m3u8", "1.m3u8", "i"],
            "this title is clear"
        );
    }

    #[test]
    fn keys_are_asked_for_again_in_each_period_and_later_where_told_so() {
        let licences = Licences {
            periods: 3,
            period: 5.0,
            own_tokens: false,
        };
        let mut viewer = viewer(Behaviour::Licence(licences), 0);
        let url = Url::parse("http://l/").unwrap();
        viewer.licences = vec![Errand::Licence {
            licence: crate::manifest::Licence::ClearKey(url.clone()),
            renditions: vec![0],
            body: Some(r#"{"kids":["a","b"],"type":"temporary"}"#.to_owned()),
        }];
        let (asked, left) = life(&mut viewer, at(0.1), 10);
        assert_eq!(names(&asked)[3..], ["renewal", "renewal"]);
        let due: Vec<_> = asked[3..].iter().map(|(due, _)| due.unwrap()).collect();
        assert_eq!((due, left), (vec![at(6.0), at(11.0)], at(11.1)));

        viewer.renewed = 0;
        viewer.told_to_wait(at(9.0));
        assert_eq!(viewer.step(at(6.0)), Step::Wait(at(9.0)));
        let Step::Fetch { due, errands } = viewer.step(at(9.0)) else {
            panic!("it is time")
        };
        let renewal = Errand::Renewal {
            licence: crate::manifest::Licence::ClearKey(url),
            body: Some(r#"{"kids":["b"],"type":"temporary"}"#.to_owned()),
        };
        assert_eq!((due, errands), (Some(at(9.0)), vec![renewal]));
    }
}
