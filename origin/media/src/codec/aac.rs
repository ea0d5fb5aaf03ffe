//! AAC in MP4: the `AudioSpecificConfig` (ISO/IEC 14496-3 1.6.2.1), read as far as to tell AAC-LC from what
//! is announced as something else.

use bytes::Bytes;

use super::CodecError;
use super::bits::{BitReader, BitsError};

/// The configuration of an AAC-LC track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AacConfig {
    audio_specific_config: Bytes,
    sample_rate: u32,
    channel_configuration: ChannelConfiguration,
}

impl AacConfig {
    /// Reads an `AudioSpecificConfig`.
    ///
    /// # Errors
    /// The bits are malformed, or announce something other than AAC-LC: HE-AAC signalled explicitly, a
    /// layout of channels given by a program config element, a scalable core.
    pub fn parse(audio_specific_config: Bytes) -> Result<Self, CodecError> {
        let announced = Announced::parse(&audio_specific_config)
            .map_err(|error| CodecError::malformed(format!("AudioSpecificConfig: {}", error.0)))?;
        if announced.parametric_stereo {
            return Err(CodecError::unsupported(
                "HE-AAC v2 (parametric stereo), not AAC-LC",
            ));
        }
        if announced.band_replication {
            return Err(CodecError::unsupported(
                "HE-AAC (spectral band replication), not AAC-LC",
            ));
        }
        if announced.object_type != AAC_LC {
            return Err(CodecError::unsupported(format!(
                "audio object type {}, not 2 (AAC-LC)",
                announced.object_type
            )));
        }
        if announced.depends_on_core_coder {
            return Err(CodecError::unsupported("AAC-LC over a scalable core coder"));
        }
        let channel_configuration = ChannelConfiguration::new(announced.channel_configuration)
            .ok_or_else(|| {
                CodecError::unsupported(format!(
                    "channelConfiguration {}, which names no loudspeaker layout by itself",
                    announced.channel_configuration
                ))
            })?;
        if announced.sample_rate == 0 {
            return Err(CodecError::malformed(
                "AudioSpecificConfig: a sampling frequency of 0",
            ));
        }
        Ok(Self {
            audio_specific_config,
            sample_rate: announced.sample_rate,
            channel_configuration,
        })
    }

    /// The `AudioSpecificConfig` as the source has it: the `DecoderSpecificInfo` of `esds`.
    pub fn audio_specific_config(&self) -> &Bytes {
        &self.audio_specific_config
    }

    /// Samples per second.
    pub fn sample_rate(&self) -> u32 {
        self.sample_rate
    }

    /// The loudspeaker layout.
    pub fn channel_configuration(&self) -> ChannelConfiguration {
        self.channel_configuration
    }

    /// How many channels are coded, the low-frequency one among them.
    pub fn channels(&self) -> u16 {
        self.channel_configuration.channels()
    }

    /// `mp4a.40.2` (RFC 6381 3.3).
    pub fn rfc6381(&self) -> String {
        format!("mp4a.40.{AAC_LC}")
    }
}

/// A `channelConfiguration` of ISO/IEC 14496-3 table 1.19, which equals the `ChannelConfiguration` of
/// ISO/IEC 23091-3 that DASH names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelConfiguration(u8);

impl ChannelConfiguration {
    fn new(value: u8) -> Option<Self> {
        matches!(value, 1..=7 | 11 | 12 | 14).then_some(Self(value))
    }

    /// The value of the table.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// How many channels it has, the low-frequency one among them.
    pub const fn channels(self) -> u16 {
        match self.0 {
            7 | 12 | 14 => 8,
            11 => 7,
            same => same as u16,
        }
    }
}

const AAC_LC: u8 = 2;
const SBR: u8 = 5;
const ER_BSAC: u8 = 22;
const PS: u8 = 29;

/// What an `AudioSpecificConfig` says.
struct Announced {
    object_type: u8,
    sample_rate: u32,
    channel_configuration: u8,
    depends_on_core_coder: bool,
    band_replication: bool,
    parametric_stereo: bool,
}

impl Announced {
    fn parse(bytes: &[u8]) -> Result<Self, BitsError> {
        let mut bits = BitReader::new(bytes);
        let mut object_type = audio_object_type(&mut bits)?;
        let sample_rate = sampling_frequency(&mut bits)?;
        let channel_configuration = bits.byte(4)?;
        let (mut band_replication, mut parametric_stereo) = (false, false);
        if matches!(object_type, SBR | PS) {
            band_replication = true;
            parametric_stereo = object_type == PS;
            sampling_frequency(&mut bits)?;
            object_type = audio_object_type(&mut bits)?;
            if object_type == ER_BSAC {
                bits.skip(4)?; // extensionChannelConfiguration
            }
        }
        let mut depends_on_core_coder = false;
        if object_type == AAC_LC {
            bits.bit()?; // frameLengthFlag
            depends_on_core_coder = bits.bit()?;
            if depends_on_core_coder {
                bits.skip(14)?; // coreCoderDelay
            }
            bits.bit()?; // extensionFlag
            // A program config element would follow channelConfiguration 0, which is refused anyway.
            if !band_replication && channel_configuration != 0 {
                (band_replication, parametric_stereo) = sync_extension(&mut bits);
            }
        }
        Ok(Self {
            object_type,
            sample_rate,
            channel_configuration,
            depends_on_core_coder,
            band_replication,
            parametric_stereo,
        })
    }
}

/// The backward compatible announcement of SBR and PS at the end of the config (1.6.6.1).
fn sync_extension(bits: &mut BitReader<'_>) -> (bool, bool) {
    let mut read = || -> Result<(bool, bool), BitsError> {
        if bits.bits(11)? != 0x2b7 || audio_object_type(bits)? != SBR || !bits.bit()? {
            return Ok((false, false));
        }
        sampling_frequency(bits)?;
        // Its own end may fall here: then there is no parametric stereo.
        let stereo = bits.bits(11) == Ok(0x548) && bits.bit() == Ok(true);
        Ok((true, stereo))
    };
    // Config ends where it ends: without a whole extension there is none.
    read().unwrap_or((false, false))
}

fn audio_object_type(bits: &mut BitReader<'_>) -> Result<u8, BitsError> {
    let value = bits.byte(5)?;
    if value == 31 {
        Ok(32 + bits.byte(6)?)
    } else {
        Ok(value)
    }
}

fn sampling_frequency(bits: &mut BitReader<'_>) -> Result<u32, BitsError> {
    const ESCAPE: usize = 15;
    const FREQUENCIES: [u32; 13] = [
        96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025,
        8_000, 7_350,
    ];
    match usize::from(bits.byte(4)?) {
        ESCAPE => bits.bits(24),
        index => FREQUENCIES
            .get(index)
            .copied()
            .ok_or(BitsError("samplingFrequencyIndex is reserved")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &'static [u8]) -> Result<AacConfig, CodecError> {
        AacConfig::parse(Bytes::from_static(bytes))
    }

    #[test]
    fn stereo_48_khz() {
        let config = parse(&[0x11, 0x90]).unwrap();
        assert_eq!((config.sample_rate(), config.channels()), (48_000, 2));
        assert_eq!(config.rfc6381(), "mp4a.40.2");
    }

    #[test]
    fn mono_16_khz_and_5_1() {
        assert_eq!(parse(&[0x14, 0x08]).unwrap().sample_rate(), 16_000);
        assert_eq!(parse(&[0x11, 0xb0]).unwrap().channels(), 6);
    }

    #[test]
    fn an_explicit_frequency() {
        // 00010 1111 (24 bits: 44100) 0010 000
        let config = parse(&[0x17, 0x80, 0x56, 0x22, 0x10]).unwrap();
        assert_eq!((config.sample_rate(), config.channels()), (44_100, 2));
    }

    #[test]
    fn a_sync_extension_that_says_no_is_lc() {
        // As written by ffmpeg's encoder: LC 48 kHz stereo, 0x2b7, SBR, sbrPresentFlag 0.
        assert!(parse(&[0x11, 0x90, 0x56, 0xe5, 0x00]).is_ok());
    }

    #[test]
    fn high_efficiency_is_told_apart() {
        let explicit = parse(&[0x2b, 0x92, 0x08, 0x00]).unwrap_err();
        assert!(
            explicit.to_string().starts_with("HE-AAC (spectral"),
            "{explicit}"
        );
        let version_2 = parse(&[0xeb, 0x8a, 0x08, 0x00]).unwrap_err();
        assert!(
            version_2.to_string().starts_with("HE-AAC v2"),
            "{version_2}"
        );
        let compatible = parse(&[0x13, 0x90, 0x56, 0xe5, 0xa0]).unwrap_err();
        assert!(
            compatible.to_string().starts_with("HE-AAC (spectral"),
            "{compatible}"
        );
    }

    #[test]
    fn other_object_types_and_layouts_are_refused() {
        assert!(
            parse(&[0x09, 0x90])
                .unwrap_err()
                .to_string()
                .contains("object type 1")
        );
        assert!(
            parse(&[0x11, 0x80])
                .unwrap_err()
                .to_string()
                .contains("channelConfiguration 0")
        );
    }

    #[test]
    fn truncations_are_malformed() {
        for bytes in [&[][..], &[0x11]] {
            let error = AacConfig::parse(Bytes::copy_from_slice(bytes)).unwrap_err();
            assert_eq!(error.kind(), crate::error::ParseErrorKind::Malformed);
        }
    }
}
