//! `[policies.NAME.license]`: what licences say, and what these forbid each other.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::value::{Datetime, Offset};

use super::Check;
use crate::document::{KeyRuleDocument, PolicyLicenseDocument};
use crate::settings::{KeyRuleSettings, LicenseTermsSettings, RenewalSettings, TrackLabel};
use crate::units::Span;

/// Ten years: nothing longer is meant.
const LONGEST: Span = Span::seconds(10 * 365 * 86_400);

impl Check<'_> {
    /// `key` is the policy's.
    pub(super) fn terms(
        &mut self,
        key: &str,
        license: PolicyLicenseDocument,
    ) -> LicenseTermsSettings {
        let key = format!("{key}.license");
        let begins = self.moment(&format!("{key}.begins"), license.begins);
        let expires = self.moment(&format!("{key}.expires"), license.expires);
        if let (Some(begins), Some(expires)) = (begins, expires)
            && expires <= begins
        {
            self.fault(
                &format!("{key}.expires"),
                "is not after begins, so that no licence is ever given",
                "set it later",
            );
        }
        let mut span = |name: &str, span: Option<Span>, least| {
            let span = span?;
            self.within(&format!("{key}.{name}"), span, least, LONGEST);
            Some(span.0)
        };
        let second = Span::seconds(1);
        let license_duration = span("duration", license.duration, second);
        let rental_duration = span("rental", license.rental, second);
        let playback_duration = span("playback", license.playback, second);
        let after = span("renewal", license.renewal, second);
        // Android's player never retries where this is 0.
        let retry = span("renewal_retry", license.renewal_retry, second);
        let recovery = span(
            "renewal_recovery",
            license.renewal_recovery,
            Span::seconds(0),
        );
        for (name, set) in [("renewal_retry", retry), ("renewal_recovery", recovery)] {
            if after.is_none() && set.is_some() {
                self.fault(
                    &format!("{key}.{name}"),
                    "is set, and licences are not renewed",
                    &format!("set {key}.renewal, or leave it out"),
                );
            }
        }
        if let (Some(after), Some(duration)) = (after, license_duration)
            && after >= duration
        {
            self.fault(
                &format!("{key}.renewal"),
                "is not before the licence's end",
                &format!("set it below {key}.duration"),
            );
        }
        if license.max_video == Some(TrackLabel::Audio) {
            self.fault(
                &format!("{key}.max_video"),
                "is no size of pictures",
                "set it to SD, HD, UHD1 or UHD2",
            );
        }
        LicenseTermsSettings {
            persistent: license.persistent,
            begins,
            expires,
            license_duration,
            rental_duration,
            playback_duration,
            renewal: after.map(|after| RenewalSettings {
                after,
                retry: retry.unwrap_or(Duration::from_secs(10)),
                recovery: recovery.unwrap_or(Duration::from_secs(120)),
            }),
            max_video: license.max_video,
            keys: self.key_rules(&key, license.keys),
        }
    }

    fn key_rules(
        &mut self,
        key: &str,
        rules: BTreeMap<String, KeyRuleDocument>,
    ) -> BTreeMap<TrackLabel, KeyRuleSettings> {
        let mut checked = BTreeMap::new();
        for (name, rule) in rules {
            let label = match name.as_str() {
                "AUDIO" => TrackLabel::Audio,
                "SD" => TrackLabel::Sd,
                "HD" => TrackLabel::Hd,
                "UHD1" => TrackLabel::Uhd1,
                "UHD2" => TrackLabel::Uhd2,
                _ => {
                    self.fault(
                        &format!("{key}.keys.{name}"),
                        "is no label of keys",
                        "there are AUDIO, SD, HD, UHD1 and UHD2",
                    );
                    continue;
                }
            };
            let rule = KeyRuleSettings {
                hdcp: rule.hdcp,
                no_analogue: rule.analogue == Some(false),
                no_digital: rule.digital == Some(false),
                widevine: rule.widevine,
                playready: rule.playready,
                fairplay_hdcp: rule.fairplay_hdcp,
            };
            checked.insert(label, rule);
        }
        checked
    }

    /// A date and time with its offset, in seconds since 1970-01-01T00:00:00Z.
    fn moment(&mut self, key: &str, moment: Option<Datetime>) -> Option<u64> {
        let moment = moment?;
        let seconds = unix_seconds(&moment);
        if seconds.is_none() {
            self.fault(
                key,
                "is not a moment since 1970 with its offset from UTC",
                "write it such as 2026-12-24T18:00:00Z, without quotes",
            );
        }
        seconds
    }
}

fn unix_seconds(moment: &Datetime) -> Option<u64> {
    let (date, time, offset) = (moment.date?, moment.time?, moment.offset?);
    let minutes_east = match offset {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    // Days since 1970 in the Gregorian calendar, counted in years that begin in March.
    let (year, month, day) = (
        i64::from(date.year),
        i64::from(date.month),
        i64::from(date.day),
    );
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    let days = days - 719_468;
    let (hour, minute) = (i64::from(time.hour), i64::from(time.minute));
    let second = i64::from(time.second.unwrap_or(0));
    let seconds = ((days * 24 + hour) * 60 + minute - minutes_east) * 60 + second;
    u64::try_from(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_counted_from_1970() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2026-12-24T18:00:00Z", Some(1_798_135_200)),
            ("2026-12-24T19:30:00+01:30", Some(1_798_135_200)),
            ("2024-02-29T23:59:59Z", Some(1_709_251_199)),
            ("2024-03-01T00:00:00Z", Some(1_709_251_200)),
            ("2000-03-01T00:00:00Z", Some(951_868_800)),
            ("1969-12-31T23:59:59Z", None),
            ("2026-12-24T18:00:00", None),
            ("2026-12-24", None),
            ("18:00:00", None),
        ] {
            let moment: Datetime = text.parse().unwrap();
            assert_eq!(unix_seconds(&moment), expected, "{text}");
        }
    }
}
