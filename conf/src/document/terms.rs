//! `[policies.NAME.license]`: what a policy's licences say.

use super::*;

/// What a policy's licences say. A token may be stricter, never looser.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyLicenseDocument {
    /// Lets licences be kept beyond the session, for offline playback. Default `false`.
    pub persistent: bool,
    /// The first moment at which licences are given, such as `2026-12-24T18:00:00Z`.
    pub begins: Option<toml::value::Datetime>,
    /// The moment from which on none is given, and those that were given end.
    pub expires: Option<toml::value::Datetime>,
    /// How long a licence is good for, from its issue. Without it: as long as the rest allows.
    pub duration: Option<Span>,
    /// How long the first play may be put off, from the issue.
    pub rental: Option<Span>,
    /// How long it plays, from the first play.
    pub playback: Option<Span>,
    /// When players first renew it, from the issue. Without it, licences are not renewed.
    pub renewal: Option<Span>,
    /// How long a player waits after a renewal that failed. Without it 10 s.
    pub renewal_retry: Option<Span>,
    /// How long it plays on while renewals fail. Without it 2 min.
    pub renewal_recovery: Option<Span>,
    /// The largest pictures: manifests list no larger ones, as their label says, and their keys are left out of licences. `SD`, `HD`, `UHD1` or `UHD2`.
    pub max_video: Option<TrackLabel>,
    /// What the keys of a label ask of a device, by label: `AUDIO`, `SD`, `HD`, `UHD1`, `UHD2`. A key whose rule a player's system cannot keep is left out of its licence; where none is left there is no licence. ClearKey keeps no rule at all.
    pub keys: BTreeMap<String, KeyRuleDocument>,
}

/// What a key asks of a device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyRuleDocument {
    /// The least HDCP on digital outputs: `none`, `1.0`, `2.0`, `2.1`, `2.2` or `2.3`. FairPlay enforces type 0 for `1.0` and type 1 for `2.0` to `2.2`; it cannot keep `2.3`. Default `"none"`.
    pub hdcp: Hdcp,
    /// Whether analogue outputs may show it. FairPlay cannot keep `false`. Default `true`.
    pub analogue: Option<bool>,
    /// Whether digital outputs may show it. FairPlay cannot keep `false`. Default `true`.
    pub digital: Option<bool>,
    /// The least robustness of a Widevine client, in EME's words or by level: `SW_SECURE_CRYPTO` (`L3`), `SW_SECURE_DECODE`, `HW_SECURE_CRYPTO` (`L2`), `HW_SECURE_DECODE` (`L1`), `HW_SECURE_ALL`. Default `"SW_SECURE_CRYPTO"`.
    pub widevine: WidevineLevel,
    /// The least security level of a PlayReady client: `SL150`, `SL2000` or `SL3000`. Default `"SL150"`.
    pub playready: PlayReadyLevel,
    /// The least that FairPlay enforces of HDCP, whatever `hdcp` says: `none`, `type-0` or `type-1` (2.2 and above). Default `"none"`.
    pub fairplay_hdcp: FairPlayHdcp,
}
