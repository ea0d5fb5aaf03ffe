//! What a licence says besides its keys, in words of no system: how long, kept or not, renewed how; and what a key asks of
//! the device that gets it. Pure data; each system spells it in its own way.
//!
//! Where two sources speak, such as a policy and a token, the stricter word counts.

use std::time::Duration;

pub use conf::{FairPlayHdcp, Hdcp, PlayReadyLevel, WidevineLevel};
use serde::{Deserialize, Serialize};

use crate::UnixTime;

/// What a licence allows. What is `None` is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Terms {
    /// Whether it may be kept beyond the session: offline playback.
    pub persistent: bool,
    /// The first moment at which it is given.
    pub begins: Option<UnixTime>,
    /// The moment from which on it is not given, and ends.
    pub expires: Option<UnixTime>,
    /// How long it is good for, from its issue.
    pub license_duration: Option<Duration>,
    /// How long the first play may be put off, from its issue.
    pub rental_duration: Option<Duration>,
    /// How long it plays, from the first play.
    pub playback_duration: Option<Duration>,
    /// Whether and how players renew it.
    pub renewal: Option<Renewal>,
}

/// How a licence is renewed while it plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Renewal {
    /// When a player first asks, from the issue.
    pub after: Duration,
    /// How long it waits before it asks again after a failure; never 0, which Android's player takes for "never".
    pub retry: Duration,
    /// How long it plays on while renewals fail.
    pub recovery: Duration,
}

impl Terms {
    /// The stricter of both in each respect.
    pub fn and(self, other: Self) -> Self {
        Self {
            persistent: self.persistent && other.persistent,
            begins: self.begins.max(other.begins),
            expires: least(self.expires, other.expires),
            license_duration: least(self.license_duration, other.license_duration),
            rental_duration: least(self.rental_duration, other.rental_duration),
            playback_duration: least(self.playback_duration, other.playback_duration),
            renewal: match (self.renewal, other.renewal) {
                (Some(one), Some(two)) => Some(Renewal {
                    after: one.after.min(two.after),
                    retry: one.retry.min(two.retry),
                    recovery: one.recovery.min(two.recovery),
                }),
                (one, two) => one.or(two),
            },
        }
    }

    /// Whether the licence ends: at a moment, after a time, or unless it is renewed.
    pub const fn ends(&self) -> bool {
        self.expires.is_some()
            || self.license_duration.is_some()
            || self.rental_duration.is_some()
            || self.playback_duration.is_some()
            || self.renewal.is_some()
    }

    /// The licence's end when it is issued at `now`: the earlier of its duration's end and its expiry.
    pub fn end(&self, now: UnixTime) -> Option<UnixTime> {
        let lasts = self.license_duration.map(|duration| now.plus(duration));
        least(self.expires, lasts)
    }
}

/// The lesser, where `None` is no limit.
fn least<T: Ord>(one: Option<T>, two: Option<T>) -> Option<T> {
    match (one, two) {
        (Some(one), Some(two)) => Some(one.min(two)),
        (one, two) => one.or(two),
    }
}

/// What a key asks of the device that gets it. The default asks nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRule {
    /// The least HDCP on digital outputs.
    pub hdcp: Hdcp,
    /// No analogue output.
    pub no_analogue: bool,
    /// No digital output.
    pub no_digital: bool,
    /// The least robustness of a Widevine client.
    pub widevine: WidevineLevel,
    /// The least security level of a PlayReady client.
    pub playready: PlayReadyLevel,
    /// The least that FairPlay enforces of HDCP.
    pub fairplay_hdcp: FairPlayHdcp,
}

impl KeyRule {
    /// The stricter of both in each respect.
    pub fn and(self, other: Self) -> Self {
        Self {
            hdcp: self.hdcp.max(other.hdcp),
            no_analogue: self.no_analogue || other.no_analogue,
            no_digital: self.no_digital || other.no_digital,
            widevine: self.widevine.max(other.widevine),
            playready: self.playready.max(other.playready),
            fairplay_hdcp: self.fairplay_hdcp.max(other.fairplay_hdcp),
        }
    }

    /// Whether it asks for protection of outputs, in any system, which one without a protected path cannot promise.
    pub fn protects_outputs(&self) -> bool {
        self.hdcp > Hdcp::None
            || self.no_analogue
            || self.no_digital
            || self.fairplay_hdcp > FairPlayHdcp::None
    }

    /// The same in FairPlay's words, which know the stream types of HDCP and no other output: type 0 is for any receiver, type 1
    /// for none before 2.2. So 2.0 and 2.1 become the stricter type 1. None where FairPlay has no word for it: 2.3, no
    /// analogue output, no digital one.
    pub fn in_fairplay(self) -> Option<Self> {
        if self.no_analogue || self.no_digital {
            return None;
        }
        let least = match self.hdcp {
            Hdcp::None => FairPlayHdcp::None,
            Hdcp::V1 => FairPlayHdcp::Type0,
            Hdcp::V2 | Hdcp::V2_1 | Hdcp::V2_2 => FairPlayHdcp::Type1,
            Hdcp::V2_3 => return None,
        };
        Some(Self {
            fairplay_hdcp: self.fairplay_hdcp.max(least),
            ..self
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stricter_word_counts() {
        let second = Duration::from_secs(1);
        let renewal = |after| Renewal {
            after,
            retry: second,
            recovery: second,
        };
        let loose = Terms {
            persistent: true,
            begins: None,
            expires: Some(UnixTime::from_seconds(100)),
            license_duration: Some(second * 60),
            rental_duration: None,
            playback_duration: Some(second),
            renewal: None,
        };
        let strict = Terms {
            persistent: false,
            begins: Some(UnixTime::from_seconds(5)),
            expires: Some(UnixTime::from_seconds(50)),
            license_duration: None,
            rental_duration: Some(second),
            playback_duration: Some(second * 2),
            renewal: Some(renewal(second)),
        };
        let both = Terms {
            persistent: false,
            begins: Some(UnixTime::from_seconds(5)),
            expires: Some(UnixTime::from_seconds(50)),
            license_duration: Some(second * 60),
            rental_duration: Some(second),
            playback_duration: Some(second),
            renewal: Some(renewal(second)),
        };
        assert_eq!(loose.and(strict), both);
        assert_eq!(strict.and(loose), both);
        assert_eq!(
            loose.end(UnixTime::from_seconds(10)),
            Some(UnixTime::from_seconds(70))
        );
        assert_eq!(
            loose.end(UnixTime::from_seconds(60)),
            Some(UnixTime::from_seconds(100))
        );
        assert_eq!(Terms::default().end(UnixTime::from_seconds(60)), None);
    }

    #[test]
    fn a_key_asks_what_either_asks() {
        let one = KeyRule {
            hdcp: Hdcp::V2_2,
            no_analogue: true,
            widevine: WidevineLevel::HwSecureAll,
            ..KeyRule::default()
        };
        let two = KeyRule {
            hdcp: Hdcp::V1,
            playready: PlayReadyLevel::Sl3000,
            fairplay_hdcp: FairPlayHdcp::Type1,
            ..KeyRule::default()
        };
        let both = one.and(two);
        assert_eq!(both, two.and(one));
        assert_eq!(both.hdcp, Hdcp::V2_2);
        assert!(both.no_analogue && !both.no_digital);
        assert_eq!(both.widevine, WidevineLevel::HwSecureAll);
        assert_eq!(both.playready, PlayReadyLevel::Sl3000);
        assert_eq!(both.fairplay_hdcp, FairPlayHdcp::Type1);
        assert!(both.protects_outputs());
        assert!(!KeyRule::default().protects_outputs());
    }

    #[test]
    fn every_word_about_outputs_asks_for_protection() {
        let free = KeyRule::default();
        for asking in [
            KeyRule {
                hdcp: Hdcp::V1,
                ..free
            },
            KeyRule {
                no_analogue: true,
                ..free
            },
            KeyRule {
                no_digital: true,
                ..free
            },
            KeyRule {
                fairplay_hdcp: FairPlayHdcp::Type0,
                ..free
            },
        ] {
            assert!(asking.protects_outputs(), "{asking:?}");
        }
    }

    #[test]
    fn fairplay_keeps_the_stricter_type_or_says_that_it_cannot() {
        use FairPlayHdcp::{None as Nothing, Type0, Type1};
        let rule = |hdcp, fairplay_hdcp| KeyRule {
            hdcp,
            fairplay_hdcp,
            ..KeyRule::default()
        };
        for (hdcp, own, kept) in [
            (Hdcp::None, Nothing, Some(Nothing)),
            (Hdcp::None, Type0, Some(Type0)),
            (Hdcp::V1, Nothing, Some(Type0)),
            (Hdcp::V1, Type1, Some(Type1)),
            (Hdcp::V2, Nothing, Some(Type1)),
            (Hdcp::V2_1, Type0, Some(Type1)),
            (Hdcp::V2_2, Nothing, Some(Type1)),
            (Hdcp::V2_3, Type1, None),
        ] {
            let kept = kept.map(|kept| rule(hdcp, kept));
            assert_eq!(rule(hdcp, own).in_fairplay(), kept, "{hdcp:?} {own:?}");
        }
        let free = KeyRule::default();
        let no_analogue = KeyRule {
            no_analogue: true,
            ..free
        };
        let no_digital = KeyRule {
            no_digital: true,
            ..free
        };
        assert_eq!(
            (no_analogue.in_fairplay(), no_digital.in_fairplay()),
            (None, None)
        );
    }
}
