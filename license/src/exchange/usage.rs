//! Which tracks a document means by a key, in the keystore's words: `keystore/design/exchange.md` has the table.

use cpix::speke::Usage;
use cpix::usage::{AudioFilter, Filter, UsageRule, VideoFilter};
use cpix::{EncryptionScheme, SystemId};
use keystore_client::exchange::{KeyUsage, MAX_ELSEWHERE};
use keystore_types::{Label, Scheme};

/// A key as a document speaks of it.
pub(super) struct Described<'a> {
    pub(super) scheme: Option<EncryptionScheme>,
    pub(super) rules: &'a [&'a UsageRule],
    /// Whether it is used for a part of the time only.
    pub(super) rotates: bool,
    /// The systems that signal it: they tell the scheme where SPEKE 1.0 does not.
    pub(super) systems: &'a [SystemId],
}

/// What the key is for. A key that is not for exactly the tracks of one label, all the time and in a scheme that the
/// origin packages, is used elsewhere.
pub(super) fn usage(key: &Described<'_>) -> KeyUsage {
    let covered: Vec<Label> = (Label::ALL.into_iter())
        .filter(|label| key.rules.is_empty() || key.rules.iter().any(|rule| meets(rule, *label)))
        .collect();
    // What cannot be told is taken for the most valuable.
    let label = covered.iter().max().copied().unwrap_or(Label::Uhd2);
    let scheme = key.scheme.unwrap_or_else(|| usual(key.systems));
    let exactly = match (key.rules, scheme.packaged()) {
        ([rule], Some(_)) => key.scheme.is_some() && !key.rotates && is_exactly(rule, label),
        _ => false,
    };
    let elsewhere = (!exactly).then(|| {
        let types =
            (key.rules.iter()).map(|rule| rule.intended_track_type.as_deref().unwrap_or("?"));
        let mut types: Vec<&str> = types.collect();
        types.sort_unstable();
        let rotates = if key.rotates { " rotating" } else { "" };
        let mut text = format!("{scheme}{rotates} {}", types.join("+"));
        while text.len() > MAX_ELSEWHERE {
            text.pop();
        }
        text
    });
    KeyUsage {
        label,
        scheme: nearest(scheme),
        elsewhere,
    }
}

/// The scheme that the origin packages with the same mode of the cipher.
fn nearest(scheme: EncryptionScheme) -> Scheme {
    match scheme {
        EncryptionScheme::Cenc | EncryptionScheme::Cens | EncryptionScheme::HlsSampleAesCtr => {
            Scheme::Cenc
        }
        EncryptionScheme::Cbcs
        | EncryptionScheme::Cbc1
        | EncryptionScheme::HlsAes128
        | EncryptionScheme::HlsSampleAes => Scheme::Cbcs,
    }
}

/// The scheme that goes with systems, where none is stated.
fn usual(systems: &[SystemId]) -> EncryptionScheme {
    let cbc = [
        SystemId::FAIRPLAY,
        SystemId::HLS_AES_128,
        SystemId::HLS_SAMPLE_AES,
        SystemId::SPEKE_V1_AES_128,
    ];
    match systems.iter().any(|system| cbc.contains(system)) {
        true => EncryptionScheme::Cbcs,
        false => EncryptionScheme::Cenc,
    }
}

/// Whether some track of the label may have the rule's key, as far as size and channels tell.
fn meets(rule: &UsageRule, label: Label) -> bool {
    let mut narrowed = false;
    let mut met = false;
    for filter in &rule.filters {
        match filter {
            Filter::Video(filter) => {
                narrowed = true;
                met |= pixels(label).is_some_and(|(min, max)| {
                    filter.min_pixels.unwrap_or(0) <= max
                        && filter.max_pixels.unwrap_or(u32::MAX) >= min
                });
            }
            Filter::Audio(_) => {
                narrowed = true;
                met |= label == Label::Audio;
            }
            Filter::KeyPeriod(_) | Filter::Label(_) | Filter::Bitrate(_) | Filter::Unknown(_) => {}
        }
    }
    met || !narrowed
}

/// Whether the rule's key is for all tracks of the label and for no others.
fn is_exactly(rule: &UsageRule, label: Label) -> bool {
    let [filter] = rule.filters.as_slice() else {
        return false;
    };
    match (filter, pixels(label)) {
        (Filter::Video(filter), Some((min, max))) => {
            let bounds = VideoFilter {
                min_pixels: Some(filter.min_pixels.unwrap_or(0)),
                max_pixels: Some(filter.max_pixels.unwrap_or(u32::MAX)),
                ..*filter
            };
            bounds
                == VideoFilter {
                    min_pixels: Some(min),
                    max_pixels: Some(max),
                    ..VideoFilter::default()
                }
        }
        (Filter::Audio(filter), None) => {
            let AudioFilter {
                min_channels,
                max_channels,
            } = *filter;
            min_channels.unwrap_or(0) <= 1 && max_channels.is_none()
        }
        _ => false,
    }
}

/// The bounds of a label's pictures, in pixels; none for sound. They are those of the preset that has a key for each label.
fn pixels(label: Label) -> Option<(u32, u32)> {
    (Usage::of_label(label).filters.iter()).find_map(|filter| match filter {
        Filter::Video(filter) => Some((
            filter.min_pixels.unwrap_or(0),
            filter.max_pixels.unwrap_or(u32::MAX),
        )),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use cpix::speke::{AudioPreset, VideoPreset, usages};
    use keystore_types::KeyId;

    use super::*;

    fn of(usage: &Usage, scheme: EncryptionScheme) -> KeyUsage {
        let rule = UsageRule {
            key_id: KeyId::new([1; 16]),
            intended_track_type: Some(usage.intended_track_type.clone()),
            filters: usage.filters.clone(),
        };
        super::usage(&Described {
            scheme: Some(scheme),
            rules: &[&rule],
            rotates: false,
            systems: &[],
        })
    }

    #[test]
    fn a_key_for_each_label_is_used_here() {
        for label in Label::ALL {
            for (scheme, packaged) in [
                (EncryptionScheme::Cbcs, Scheme::Cbcs),
                (EncryptionScheme::Cenc, Scheme::Cenc),
            ] {
                let usage = of(&Usage::of_label(label), scheme);
                assert_eq!((usage.label, usage.scheme), (label, packaged));
                assert_eq!(usage.elsewhere, None, "{label}");
            }
        }
    }

    #[test]
    fn other_tracks_and_schemes_are_elsewhere_and_count_as_the_most_valuable() {
        let presets = usages(VideoPreset::Video8, AudioPreset::Audio2).unwrap();
        let found: Vec<_> = (presets.iter())
            .map(|usage| of(usage, EncryptionScheme::Cbcs))
            .map(|usage| (usage.label, usage.elsewhere.unwrap_or_default()))
            .collect();
        let expected = [
            (Label::Hd, "cbcs SD+HD1"),
            (Label::Hd, "cbcs HD2"),
            (Label::Uhd1, ""),
            (Label::Uhd2, ""),
            (Label::Audio, "cbcs STEREO_AUDIO"),
            (Label::Audio, "cbcs MULTICHANNEL_AUDIO"),
        ];
        assert_eq!(
            found,
            expected.map(|(label, text)| (label, text.to_owned()))
        );
        let all = of(&Usage::all(), EncryptionScheme::Cbcs);
        assert_eq!(
            (all.label, all.elsewhere.as_deref()),
            (Label::Uhd2, Some("cbcs ALL"))
        );
        let cens = of(&Usage::of_label(Label::Sd), EncryptionScheme::Cens);
        assert_eq!(
            (cens.scheme, cens.elsewhere.as_deref()),
            (Scheme::Cenc, Some("cens SD"))
        );
    }

    #[test]
    fn one_key_of_speke_1_is_for_everything() {
        let usage = |systems: &[SystemId]| {
            usage(&Described {
                scheme: None,
                rules: &[],
                rotates: false,
                systems,
            })
        };
        let widevine = usage(&[SystemId::WIDEVINE]);
        assert_eq!(
            (widevine.label, widevine.scheme),
            (Label::Uhd2, Scheme::Cenc)
        );
        assert!(widevine.elsewhere.is_some());
        assert_eq!(usage(&[SystemId::FAIRPLAY]).scheme, Scheme::Cbcs);
    }
}
