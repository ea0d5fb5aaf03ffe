//! The encryption presets that encryptors offer (AWS Elemental, "SPEKE v2.0 presets"): which tracks share a key.

use keystore_types::Label;

use crate::error::{Error, ErrorKind};
use crate::usage::{AudioFilter, Filter, VideoFilter};

/// What one key is for: `ContentKeyUsageRule` without its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// `@intendedTrackType`, parts joined by `+`.
    pub intended_track_type: String,
    /// One filter for each part.
    pub filters: Vec<Filter>,
}

/// How many keys video has, and where the bounds between them are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VideoPreset {
    /// One.
    Video1,
    /// SD, HD and above.
    Video2,
    /// SD, HD, UHD.
    Video3,
    /// SD, HD, UHD1, UHD2: the labels of the keystore.
    Video4,
    /// SD, HD1, HD2, UHD1, UHD2.
    Video5,
    /// SD, HD1, HD2, UHD.
    Video6,
    /// SD+HD1, HD2, UHD.
    Video7,
    /// SD+HD1, HD2, UHD1, UHD2.
    Video8,
    /// That of the audio.
    Shared,
    /// None: the video stays in the clear.
    Unencrypted,
}

/// How many keys audio has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AudioPreset {
    /// One.
    Audio1,
    /// Stereo, more channels.
    Audio2,
    /// Stereo, 3 to 6 channels, more.
    Audio3,
    /// That of the video.
    Shared,
    /// None: the audio stays in the clear.
    Unencrypted,
}

type Part = (&'static str, Option<u32>, Option<u32>);

// Pixels of 1024x576, 1280x720, 1920x1080, 4096x2160.
const SD: Part = ("SD", None, Some(589_824));
const HD: Part = ("HD", Some(589_825), Some(2_073_600));
const HD_AND_ABOVE: Part = ("HD", Some(589_825), None);
const HD1: Part = ("HD1", Some(589_825), Some(921_600));
const HD2: Part = ("HD2", Some(921_601), Some(2_073_600));
const UHD: Part = ("UHD", Some(2_073_601), None);
const UHD1: Part = ("UHD1", Some(2_073_601), Some(8_847_360));
const UHD2: Part = ("UHD2", Some(8_847_361), None);

const STEREO: Part = ("STEREO_AUDIO", None, Some(2));
const MULTICHANNEL: Part = ("MULTICHANNEL_AUDIO", Some(3), None);
const MULTICHANNEL_3_6: Part = ("MULTICHANNEL_AUDIO_3_6", Some(3), Some(6));
const MULTICHANNEL_7: Part = ("MULTICHANNEL_AUDIO_7", Some(7), None);

impl VideoPreset {
    const fn keys(self) -> &'static [&'static [Part]] {
        match self {
            Self::Video1 => &[&[("VIDEO", None, None)]],
            Self::Video2 => &[&[SD], &[HD_AND_ABOVE]],
            Self::Video3 => &[&[SD], &[HD], &[UHD]],
            Self::Video4 => &[&[SD], &[HD], &[UHD1], &[UHD2]],
            Self::Video5 => &[&[SD], &[HD1], &[HD2], &[UHD1], &[UHD2]],
            Self::Video6 => &[&[SD], &[HD1], &[HD2], &[UHD]],
            Self::Video7 => &[&[SD, HD1], &[HD2], &[UHD]],
            Self::Video8 => &[&[SD, HD1], &[HD2], &[UHD1], &[UHD2]],
            Self::Shared | Self::Unencrypted => &[],
        }
    }
}

impl AudioPreset {
    const fn keys(self) -> &'static [&'static [Part]] {
        match self {
            Self::Audio1 => &[&[("AUDIO", None, None)]],
            Self::Audio2 => &[&[STEREO], &[MULTICHANNEL]],
            Self::Audio3 => &[&[STEREO], &[MULTICHANNEL_3_6], &[MULTICHANNEL_7]],
            Self::Shared | Self::Unencrypted => &[],
        }
    }
}

/// The keys of two presets, video first.
///
/// # Errors
/// [`ErrorKind::Invalid`] for pairs that mean nothing: one key shared with nothing, or nothing encrypted at all.
pub fn usages(video: VideoPreset, audio: AudioPreset) -> Result<Vec<Usage>, Error> {
    match (video, audio) {
        (VideoPreset::Shared, AudioPreset::Shared) => return Ok(vec![Usage::all()]),
        (VideoPreset::Shared, _) | (_, AudioPreset::Shared) => {
            let reason = "a shared key is shared by video and audio: choose it for both";
            return Err(Error::new(ErrorKind::Invalid, reason));
        }
        (VideoPreset::Unencrypted, AudioPreset::Unencrypted) => {
            let reason = "with neither video nor audio encrypted there is no key to ask for";
            return Err(Error::new(ErrorKind::Invalid, reason));
        }
        _ => {}
    }
    let video = video.keys().iter().map(|parts| Usage::of(parts, pixels));
    let audio = audio.keys().iter().map(|parts| Usage::of(parts, channels));
    Ok(video.chain(audio).collect())
}

impl Usage {
    /// One key for everything.
    pub fn all() -> Self {
        let whole = [pixels(None, None), channels(None, None)];
        Self {
            intended_track_type: "ALL".to_owned(),
            filters: whole.to_vec(),
        }
    }

    /// The tracks that share the keystore's keys of this label: presets [`VideoPreset::Video4`] and
    /// [`AudioPreset::Audio1`].
    pub fn of_label(label: Label) -> Self {
        match label {
            Label::Audio => Self::of(&[("AUDIO", None, None)], channels),
            Label::Sd => Self::of(&[SD], pixels),
            Label::Hd => Self::of(&[HD], pixels),
            Label::Uhd1 => Self::of(&[UHD1], pixels),
            Label::Uhd2 => Self::of(&[UHD2], pixels),
        }
    }

    fn of(parts: &[Part], filter: fn(Option<u32>, Option<u32>) -> Filter) -> Self {
        let names: Vec<&str> = parts.iter().map(|(name, ..)| *name).collect();
        Self {
            intended_track_type: names.join("+"),
            filters: parts
                .iter()
                .map(|(_, min, max)| filter(*min, *max))
                .collect(),
        }
    }
}

fn pixels(min_pixels: Option<u32>, max_pixels: Option<u32>) -> Filter {
    Filter::Video(VideoFilter {
        min_pixels,
        max_pixels,
        ..VideoFilter::default()
    })
}

fn channels(min_channels: Option<u32>, max_channels: Option<u32>) -> Filter {
    Filter::Audio(AudioFilter {
        min_channels,
        max_channels,
    })
}
