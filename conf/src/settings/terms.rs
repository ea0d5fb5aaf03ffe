//! What a policy's licences say.

use super::*;

/// What a policy says of its licences. What is `None` is not limited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LicenseTermsSettings {
    /// May be kept beyond the session.
    pub persistent: bool,
    /// The first moment at which they are given, in seconds since 1970-01-01T00:00:00Z.
    pub begins: Option<u64>,
    /// The moment from which on they are not, likewise.
    pub expires: Option<u64>,
    /// From the issue to the end.
    pub license_duration: Option<Duration>,
    /// From the issue to the first play.
    pub rental_duration: Option<Duration>,
    /// From the first play to the end.
    pub playback_duration: Option<Duration>,
    /// How they are renewed.
    pub renewal: Option<RenewalSettings>,
    /// The largest pictures: in manifests and in licences.
    pub max_video: Option<TrackLabel>,
    /// What the keys of a label ask of a device. Those that are not named ask nothing.
    pub keys: BTreeMap<TrackLabel, KeyRuleSettings>,
}

/// How licences are renewed while they play.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RenewalSettings {
    /// From the issue to the first renewal.
    pub after: Duration,
    /// From a renewal that failed to the next; not 0.
    pub retry: Duration,
    /// How long players go on while renewals fail.
    pub recovery: Duration,
}

/// What a key asks of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyRuleSettings {
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
    /// What FairPlay enforces of HDCP.
    pub fairplay_hdcp: FairPlayHdcp,
}

/// A version of High-bandwidth Digital Content Protection, weakest first.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
pub enum Hdcp {
    /// None is asked for.
    #[default]
    #[serde(rename = "none")]
    None,
    /// Any 1.x.
    #[serde(rename = "1.0")]
    V1,
    /// 2.0.
    #[serde(rename = "2.0")]
    V2,
    /// 2.1.
    #[serde(rename = "2.1")]
    V2_1,
    /// 2.2.
    #[serde(rename = "2.2")]
    V2_2,
    /// 2.3.
    #[serde(rename = "2.3")]
    V2_3,
}

/// How robust a Widevine client is, weakest first: the five levels of EME's robustness texts, which licence services
/// number from 1.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum WidevineLevel {
    /// Any client (L3).
    #[default]
    #[serde(alias = "L3")]
    SwSecureCrypto = 1,
    /// A client whose decoder is obfuscated (L3).
    SwSecureDecode = 2,
    /// Keys stay in hardware (L2).
    #[serde(alias = "L2")]
    HwSecureCrypto = 3,
    /// Pictures are decoded there (L1).
    #[serde(alias = "L1")]
    HwSecureDecode = 4,
    /// The whole path is there (L1).
    HwSecureAll = 5,
}

/// The security level of a PlayReady client, weakest first.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum PlayReadyLevel {
    /// For tests, unprotected.
    #[default]
    Sl150 = 150,
    /// Software.
    Sl2000 = 2000,
    /// Hardware.
    Sl3000 = 3000,
}

/// What FairPlay enforces of HDCP, weakest first.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
pub enum FairPlayHdcp {
    /// Nothing.
    #[default]
    #[serde(rename = "none")]
    None,
    /// Any version.
    #[serde(rename = "type-0")]
    Type0,
    /// 2.2 and above.
    #[serde(rename = "type-1")]
    Type1,
}
