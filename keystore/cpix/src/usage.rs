//! Which tracks a key is for: `ContentKeyUsageRule` and its filters (CPIX 2.4, "Usage Rules Filters").

use keystore_types::KeyId;

/// `ContentKeyUsageRule`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRule {
    /// The key.
    pub key_id: KeyId,
    /// `@intendedTrackType`: a name for business rules. It decides nothing here.
    pub intended_track_type: Option<String>,
    /// Which tracks: filters of one type widen, filters of different types narrow.
    pub filters: Vec<Filter>,
}

/// A condition on a track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// `KeyPeriodFilter`: the id of a `ContentKeyPeriod`.
    KeyPeriod(String),
    /// `LabelFilter`.
    Label(String),
    /// `VideoFilter`.
    Video(VideoFilter),
    /// `AudioFilter`.
    Audio(AudioFilter),
    /// `BitrateFilter`.
    Bitrate(BitrateFilter),
    /// One that is not known here, by its name. It makes every rule of the document unusable.
    Unknown(String),
}

/// `VideoFilter`. An attribute that is not there asks nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VideoFilter {
    /// Least pixels, encoded width times height, inclusive.
    pub min_pixels: Option<u32>,
    /// Most pixels, inclusive.
    pub max_pixels: Option<u32>,
    /// Whether the video has a high dynamic range.
    pub hdr: Option<bool>,
    /// Whether it has a wide colour gamut.
    pub wcg: Option<bool>,
    /// Frames per second, exclusive.
    pub min_fps: Option<u32>,
    /// Frames per second, inclusive.
    pub max_fps: Option<u32>,
}

/// `AudioFilter`, bounds inclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AudioFilter {
    /// Least channels.
    pub min_channels: Option<u32>,
    /// Most channels.
    pub max_channels: Option<u32>,
}

/// `BitrateFilter`, bits per second, bounds inclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BitrateFilter {
    /// Least.
    pub min_bitrate: Option<u32>,
    /// Most.
    pub max_bitrate: Option<u32>,
}

/// A track, as far as its packager knows it. A filter that asks what is not known makes its rule unusable.
#[derive(Clone, Debug)]
pub struct Track {
    /// Video or audio, and what the filters of the kind ask.
    pub media: Media,
    /// Nominal bits per second.
    pub bitrate: Option<u32>,
    /// Labels agreed on with whoever wrote the document.
    pub labels: Vec<String>,
    /// The id of the `ContentKeyPeriod` in which the samples lie.
    pub period: Option<String>,
}

/// What a track carries.
#[derive(Clone, Copy, Debug)]
pub enum Media {
    /// Pictures.
    Video {
        /// Encoded width times height.
        pixels: u32,
        /// Frames per second, as numerator and denominator.
        fps: Option<(u32, u32)>,
        /// High dynamic range.
        hdr: Option<bool>,
        /// Wide colour gamut.
        wcg: Option<bool>,
    },
    /// Sound.
    Audio {
        /// Channels.
        channels: u32,
    },
}

/// Why rules give a track no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// A rule asks what cannot be answered, so no rule of the document may be used.
    #[error("the usage rule of key {key_id} cannot be used: {reason}")]
    Unusable {
        /// Its key.
        key_id: KeyId,
        /// What it asks.
        reason: String,
    },
    /// Two keys for one track: the document is invalid.
    #[error("the usage rules give one track the keys {0} and {1}")]
    Ambiguous(KeyId, KeyId),
}

/// The key of a track, or none if it stays in the clear.
///
/// # Errors
/// [`MappingError`]: a rule that cannot be used, or two keys for the track.
pub fn key_of(rules: &[UsageRule], track: &Track) -> Result<Option<KeyId>, MappingError> {
    let mut found = None;
    for rule in rules {
        let matches = rule.matches(track).map_err(|reason| {
            let key_id = rule.key_id;
            MappingError::Unusable { key_id, reason }
        })?;
        match found {
            Some(other) if matches && other != rule.key_id => {
                return Err(MappingError::Ambiguous(other, rule.key_id));
            }
            _ if matches => found = Some(rule.key_id),
            _ => {}
        }
    }
    Ok(found)
}

impl UsageRule {
    /// The same type: any; different types: all.
    fn matches(&self, track: &Track) -> Result<bool, String> {
        /// Per type of filter: whether there was one, and whether one of them matched.
        #[derive(Clone, Copy, Default)]
        struct Type {
            asked: bool,
            met: bool,
        }
        let mut types = [Type::default(); 5];
        for filter in &self.filters {
            let (index, met) = match filter {
                Filter::KeyPeriod(id) => {
                    let period = track.period.as_ref();
                    let period = period.ok_or("the key period of the track is not known")?;
                    (0, period == id)
                }
                Filter::Label(label) => (1, track.labels.contains(label)),
                Filter::Video(filter) => (2, filter.matches(&track.media)?),
                Filter::Audio(filter) => (3, filter.matches(&track.media)),
                Filter::Bitrate(filter) => {
                    let bitrate = track
                        .bitrate
                        .ok_or("the bitrate of the track is not known")?;
                    (4, within(bitrate, filter.min_bitrate, filter.max_bitrate))
                }
                Filter::Unknown(name) => return Err(format!("{name:.40} is no known filter")),
            };
            types[index].asked = true;
            types[index].met |= met;
        }
        Ok(types.iter().all(|it| it.met || !it.asked))
    }
}

impl VideoFilter {
    fn matches(&self, media: &Media) -> Result<bool, String> {
        let Media::Video {
            pixels,
            fps,
            hdr,
            wcg,
        } = *media
        else {
            return Ok(false);
        };
        let mut met = within(pixels, self.min_pixels, self.max_pixels);
        for (asked, known, what) in [(self.hdr, hdr, "HDR"), (self.wcg, wcg, "WCG")] {
            if let Some(asked) = asked {
                let known = known.ok_or_else(|| format!("{what} of the track is not known"))?;
                met &= asked == known;
            }
        }
        if self.min_fps.is_some() || self.max_fps.is_some() {
            let (frames, seconds) = fps.ok_or("the frame rate of the track is not known")?;
            let frames = u64::from(frames);
            let in_time = |fps: u32| u64::from(fps) * u64::from(seconds);
            met &= self.min_fps.is_none_or(|min| frames > in_time(min));
            met &= self.max_fps.is_none_or(|max| frames <= in_time(max));
        }
        Ok(met)
    }
}

impl AudioFilter {
    const fn matches(&self, media: &Media) -> bool {
        match *media {
            Media::Audio { channels } => within(channels, self.min_channels, self.max_channels),
            Media::Video { .. } => false,
        }
    }
}

const fn within(value: u32, min: Option<u32>, max: Option<u32>) -> bool {
    let above = match min {
        Some(min) => value >= min,
        None => true,
    };
    let below = match max {
        Some(max) => value <= max,
        None => true,
    };
    above && below
}

#[cfg(test)]
mod tests {
    use super::*;

    const SD: KeyId = KeyId::new([1; 16]);
    const HD: KeyId = KeyId::new([2; 16]);
    const SOUND: KeyId = KeyId::new([3; 16]);

    fn rule(key_id: KeyId, filters: &[Filter]) -> UsageRule {
        UsageRule {
            key_id,
            intended_track_type: None,
            filters: filters.to_vec(),
        }
    }

    fn pixels(min: Option<u32>, max: Option<u32>) -> Filter {
        Filter::Video(VideoFilter {
            min_pixels: min,
            max_pixels: max,
            ..VideoFilter::default()
        })
    }

    fn video(pixels: u32) -> Track {
        track(Media::Video {
            pixels,
            fps: Some((30000, 1001)),
            hdr: Some(false),
            wcg: None,
        })
    }

    fn track(media: Media) -> Track {
        Track {
            media,
            bitrate: None,
            labels: vec!["blue".to_owned()],
            period: None,
        }
    }

    #[test]
    fn bounds_of_pixels_and_channels_are_inclusive() {
        let rules = [
            rule(SD, &[pixels(None, Some(589_824))]),
            rule(HD, &[pixels(Some(589_825), None)]),
            rule(
                SOUND,
                &[Filter::Audio(AudioFilter {
                    min_channels: Some(2),
                    max_channels: Some(6),
                })],
            ),
        ];
        assert_eq!(key_of(&rules, &video(589_824)), Ok(Some(SD)));
        assert_eq!(key_of(&rules, &video(589_825)), Ok(Some(HD)));
        for (channels, key) in [(1, None), (2, Some(SOUND)), (6, Some(SOUND)), (7, None)] {
            let track = track(Media::Audio { channels });
            assert_eq!(key_of(&rules, &track), Ok(key), "{channels}");
        }
    }

    #[test]
    fn frame_rates_exclude_the_lower_bound() {
        let fps = |min_fps, max_fps| {
            let filter = VideoFilter {
                min_fps,
                max_fps,
                ..VideoFilter::default()
            };
            [rule(HD, &[Filter::Video(filter)])]
        };
        assert_eq!(key_of(&fps(Some(29), Some(30)), &video(1)), Ok(Some(HD)));
        assert_eq!(key_of(&fps(Some(30), None), &video(1)), Ok(None));
        assert_eq!(key_of(&fps(None, Some(29)), &video(1)), Ok(None));
        let whole = track(Media::Video {
            pixels: 1,
            fps: Some((30, 1)),
            hdr: None,
            wcg: None,
        });
        assert_eq!(key_of(&fps(Some(30), None), &whole), Ok(None));
        assert_eq!(key_of(&fps(None, Some(30)), &whole), Ok(Some(HD)));
    }

    #[test]
    fn one_type_widens_and_two_narrow() {
        let label = |text: &str| Filter::Label(text.to_owned());
        let rules = [rule(
            SD,
            &[label("red"), label("blue"), pixels(None, Some(100))],
        )];
        assert_eq!(key_of(&rules, &video(100)), Ok(Some(SD)));
        assert_eq!(key_of(&rules, &video(101)), Ok(None));
        assert_eq!(
            key_of(&rules, &track(Media::Audio { channels: 2 })),
            Ok(None)
        );
        let mut green = video(100);
        green.labels = vec!["green".to_owned()];
        assert_eq!(key_of(&rules, &green), Ok(None));
    }

    #[test]
    fn what_is_not_known_makes_every_rule_unusable() {
        let hdr = Filter::Video(VideoFilter {
            wcg: Some(true),
            ..VideoFilter::default()
        });
        for (filter, reason) in [
            (hdr, "WCG of the track is not known"),
            (
                Filter::Bitrate(BitrateFilter::default()),
                "the bitrate of the track is not known",
            ),
            (
                Filter::KeyPeriod("p".to_owned()),
                "the key period of the track is not known",
            ),
            (
                Filter::Unknown("Moon".to_owned()),
                "Moon is no known filter",
            ),
        ] {
            let rules = [rule(SD, &[pixels(None, None)]), rule(HD, &[filter])];
            let error = key_of(&rules, &video(1)).unwrap_err();
            assert_eq!(
                error,
                MappingError::Unusable {
                    key_id: HD,
                    reason: reason.to_owned()
                }
            );
        }
    }

    #[test]
    fn two_keys_for_a_track_are_none() {
        let rules = [
            rule(SD, &[pixels(None, None)]),
            rule(HD, &[pixels(Some(5), None)]),
        ];
        assert_eq!(key_of(&rules, &video(4)), Ok(Some(SD)));
        assert_eq!(
            key_of(&rules, &video(5)),
            Err(MappingError::Ambiguous(SD, HD))
        );
        let twice = [rule(SD, &[pixels(None, None)]), rule(SD, &[])];
        assert_eq!(key_of(&twice, &video(5)), Ok(Some(SD)));
    }
}
