//! Entitlement messages of version 2, in the envelope in which Axinom's customers sign them: a JWT whose payload names its
//! key (`com_key_id`) and holds a `message`.
//!
//! Keys always come from the keystore here: what the message says of seeds is read past, and a key that it brings wrapped is
//! refused, since no public vector says how it is wrapped. What could only restrict and is not done here is refused too; what
//! could only allow more is read past.
//!
//! `session.user_id` is the subject: Axinom counts concurrent streams by it, and here rates, devices and revocation go by it
//! as well. The envelope's `id` is the token's; a message without one has the SHA-256 of what is signed in its place, so that
//! its stream has a name, and it can be good once and be revoked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keystore_types::KeyId;
use ring::digest;
use serde_json::{Map, Value};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::claims::{Claims, key_id};
use super::demands::{
    Demands, DrmSystem, KeyDemand, KeyDemands, LicenseDemand, PlayReadyDemand, StreamDemand,
    WidevineDemand,
};
use super::token::Token;
use crate::UnixTime;
use crate::policy::terms::{FairPlayHdcp, Hdcp, PlayReadyLevel, Renewal, WidevineLevel};

/// The longest text of a message that is kept, in bytes.
const MAX_TEXT_LEN: usize = 256;

/// The most entries of a list that is kept.
const MAX_ENTRIES: usize = 256;

/// How long a player waits between renewals that fail, where the message does not say.
const RETRY: Duration = Duration::from_secs(10);

/// What is wrong with an entitlement message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageFault {
    /// A member has the wrong type, or a value that it cannot have.
    #[error("{0} is missing or malformed")]
    Malformed(String),
    /// The deprecated first version.
    #[error(
        "message is of version 1, which is no longer read: write version 2, with content_keys_source"
    )]
    FirstVersion,
    /// Not one source of keys.
    #[error(
        "message.content_keys_source holds not exactly one of inline, license_request and stored"
    )]
    NotOneSource,
    /// A key that came with the message.
    #[error(
        "{0} is set: keys wrapped in messages are not taken; have the keystore keep the key, and name it by its id alone"
    )]
    KeyEncrypted(String),
    /// A usage policy that is named and not there.
    #[error("{0} names a policy that content_key_usage_policies does not hold")]
    PolicyMissing(String),
    /// A restriction that is not enforced here.
    #[error("{0} asks for what is not done here")]
    Unsupported(String),
}

impl MessageFault {
    /// A short fixed name for logs and metric labels.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "message_malformed",
            Self::FirstVersion => "message_version",
            Self::NotOneSource => "message_key_sources",
            Self::KeyEncrypted(_) => "message_key_encrypted",
            Self::PolicyMissing(_) => "message_policy_missing",
            Self::Unsupported(_) => "message_unsupported",
        }
    }
}

/// The key that a token says that it is signed with: `com_key_id`, which stands in the payload and not in the header.
pub(super) fn com_key_id<'a>(token: &'a Token<'_>) -> Option<&'a str> {
    token.claims.get("com_key_id")?.as_str()
}

/// Reads envelope and message.
///
/// # Errors
/// [`MessageFault`], with the path of the member.
pub(super) fn read(token: &Token<'_>) -> Result<Claims, MessageFault> {
    let envelope = Node {
        place: String::new(),
        members: &token.claims,
    };
    if envelope.number("version")? != Some(1) {
        return Err(envelope.fault("version"));
    }
    let message = envelope.object("message")?;
    let message = message.ok_or_else(|| envelope.fault("message"))?;
    if message.text("type")? != Some("entitlement_message") {
        return Err(message.fault("type"));
    }
    match message.number("version")? {
        Some(2) => {}
        Some(1) => return Err(MessageFault::FirstVersion),
        Some(_) | None => return Err(message.fault("version")),
    }
    let mut demands = Demands::default();
    if let Some(license) = message.object("license")? {
        demands.license = license.license_demand(None)?;
        for (name, system) in SYSTEMS {
            if let Some(block) = license.object(name)? {
                let demand = block.license_demand(Some(system))?;
                demands.license_of.insert(system, demand);
            }
        }
        demands.streams = license.streams()?;
    }
    let control = match message.object("license_server")? {
        Some(server) => server.object("access_control")?,
        None => None,
    };
    if let Some(control) = control {
        control.access(&mut demands)?;
    }
    let subject = message.subject(&demands)?;
    let policies = message.policies()?;
    let (key_ids, keys) = message.keys(&policies)?;
    demands.keys = keys;
    let token_id = match envelope.text("id")? {
        Some(id) => id.to_owned(),
        None => {
            let digest = digest::digest(&digest::SHA256, token.signed.as_bytes());
            URL_SAFE_NO_PAD.encode(digest)
        }
    };
    Ok(Claims {
        subject,
        token_id: Some(token_id),
        expires: envelope.date("expiration_date")?,
        not_before: envelope.date("begin_date")?,
        key_ids,
        demands,
        ..Claims::default()
    })
}

const SYSTEMS: [(&str, DrmSystem); 3] = [
    ("widevine", DrmSystem::Widevine),
    ("playready", DrmSystem::PlayReady),
    ("fairplay", DrmSystem::FairPlay),
];

/// What `license` may say, for all systems and for each.
const LICENSE: [&str; 12] = [
    "start_datetime",
    "expiration_datetime",
    "duration",
    "allow_persistence",
    "playback_duration",
    "allow_playback",
    "allow_renewal",
    "renewal_delay",
    "renewal_recovery",
    "renewal_retry_interval",
    "renewal_url",
    "renew_with_usage",
];

/// An object within the token, which knows where it stands.
struct Node<'a> {
    place: String,
    members: &'a Map<String, Value>,
}

impl<'a> Node<'a> {
    fn path(&self, name: &str) -> String {
        match self.place.as_str() {
            "" => name.to_owned(),
            place => format!("{place}.{name}"),
        }
    }

    fn fault(&self, name: &str) -> MessageFault {
        MessageFault::Malformed(self.path(name))
    }

    fn unsupported(&self, name: &str) -> MessageFault {
        MessageFault::Unsupported(self.path(name))
    }

    /// A member that is there and not null.
    fn member(&self, name: &str) -> Option<&'a Value> {
        self.members.get(name).filter(|value| !value.is_null())
    }

    fn read<T>(
        &self,
        name: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, MessageFault> {
        let Some(value) = self.member(name) else {
            return Ok(None);
        };
        read(value).map(Some).ok_or_else(|| self.fault(name))
    }

    fn object(&self, name: &str) -> Result<Option<Self>, MessageFault> {
        self.read(name, |value| {
            Some(Self {
                place: self.path(name),
                members: value.as_object()?,
            })
        })
    }

    fn objects(&self, name: &str) -> Result<Option<Vec<Self>>, MessageFault> {
        self.read(name, |value| {
            let list = value.as_array().filter(|list| list.len() <= MAX_ENTRIES)?;
            let nodes = list.iter().enumerate().map(|(index, value)| {
                Some(Self {
                    place: format!("{}[{index}]", self.path(name)),
                    members: value.as_object()?,
                })
            });
            nodes.collect()
        })
    }

    fn text(&self, name: &str) -> Result<Option<&'a str>, MessageFault> {
        self.read(name, |value| {
            let fits =
                |text: &&str| text.len() <= MAX_TEXT_LEN && !text.chars().any(char::is_control);
            value.as_str().filter(fits)
        })
    }

    fn number(&self, name: &str) -> Result<Option<u64>, MessageFault> {
        self.read(name, Value::as_u64)
    }

    /// Some senders write them as texts.
    fn boolean(&self, name: &str) -> Result<Option<bool>, MessageFault> {
        self.read(name, |value| match value {
            Value::Bool(value) => Some(*value),
            Value::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
            Value::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
            _ => None,
        })
    }

    fn seconds(&self, name: &str) -> Result<Option<Duration>, MessageFault> {
        // A hundred years and more are a mistake, and would overflow what licences hold.
        self.read(name, |value| {
            let seconds = value
                .as_u64()
                .filter(|seconds| *seconds <= u32::MAX.into())?;
            Some(Duration::from_secs(seconds))
        })
    }

    fn date(&self, name: &str) -> Result<Option<UnixTime>, MessageFault> {
        self.read(name, |value| {
            let (seconds, _) = cpix::seconds_of_date_time(value.as_str()?)?;
            let time = UnixTime::from_seconds(u64::try_from(seconds).ok()?);
            (time <= UnixTime::MAX).then_some(time)
        })
    }

    fn texts(&self, name: &str) -> Result<Option<Vec<&'a str>>, MessageFault> {
        self.read(name, |value| {
            let list = value.as_array().filter(|list| list.len() <= MAX_ENTRIES)?;
            let text = |value: &'a Value| value.as_str().filter(|it| it.len() <= MAX_TEXT_LEN);
            list.iter().map(text).collect()
        })
    }

    /// Refuses members that are not known, where those could only restrict. The name is shown where a log can take it.
    fn holds_only(&self, known: &[&str]) -> Result<(), MessageFault> {
        let mut names = self.members.keys();
        let Some(name) = names.find(|name| !known.contains(&name.as_str())) else {
            return Ok(());
        };
        let showable = name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_graphic());
        Err(self.unsupported(if showable { name } else { "?" }))
    }

    /// Of all systems, or of one.
    fn license_demand(&self, system: Option<DrmSystem>) -> Result<LicenseDemand, MessageFault> {
        let own: &[&str] = match system {
            None => &[
                "concurrency_interval",
                "concurrency_grace_period",
                "widevine",
                "playready",
                "fairplay",
            ],
            // Ends that hold while it plays are what durations mean here (`Terms`), and what Widevine's services make of them.
            Some(DrmSystem::Widevine) => &[
                "real_time_duration_expiration",
                "real_time_playback_expiration",
                "include_all_entitled_keys",
            ],
            Some(DrmSystem::PlayReady) => &["real_time_expiration", "custom_data"],
            Some(DrmSystem::FairPlay) => {
                &["real_time_expiration", "ignore_keys_in_license_request"]
            }
        };
        self.holds_only(&[&LICENSE, own].concat())?;
        // What is granted to the servers of these systems cannot say it; and nobody has a player renew as it begins.
        for asks in ["real_time_expiration", "renew_with_usage"] {
            if self.boolean(asks)? == Some(true) {
                return Err(self.unsupported(asks));
            }
        }
        for either in [
            "real_time_duration_expiration",
            "real_time_playback_expiration",
        ] {
            self.boolean(either)?;
        }
        if self.boolean("allow_playback")? == Some(false) {
            return Err(self.unsupported("allow_playback"));
        }
        let renewal = match (
            self.boolean("allow_renewal")?.unwrap_or(false),
            self.seconds("renewal_delay")?,
        ) {
            (true, Some(after)) => Some(Renewal {
                after,
                retry: (self.seconds("renewal_retry_interval")?)
                    .filter(|retry| !retry.is_zero())
                    .unwrap_or(RETRY),
                recovery: self.seconds("renewal_recovery")?.unwrap_or_default(),
            }),
            (true, None) | (false, _) => None,
        };
        Ok(LicenseDemand {
            persistent: self.boolean("allow_persistence")?,
            begins: self.date("start_datetime")?,
            expires: self.date("expiration_datetime")?,
            duration: self.seconds("duration")?,
            playback_duration: self.seconds("playback_duration")?,
            renewal,
        })
    }

    /// Whose message it is. Where streams are limited, somebody must be named whose they are.
    fn subject(&self, demands: &Demands) -> Result<Option<String>, MessageFault> {
        let session = self.object("session")?;
        let user = match &session {
            Some(session) => session.text("user_id")?,
            None => None,
        };
        if user.is_some_and(|user| user.trim().is_empty()) {
            return Err(self.fault("session.user_id"));
        }
        let limited = (demands.streams).is_some_and(|streams| streams.limit.is_some());
        match limited && user.is_none() {
            true => Err(self.fault("session.user_id")),
            false => Ok(user.map(str::to_owned)),
        }
    }

    /// The intervals stand in `license`, the limit in `access_control`: it is put in by [`Self::access`].
    fn streams(&self) -> Result<Option<StreamDemand>, MessageFault> {
        let interval = self.seconds("concurrency_interval")?;
        let grace = self.seconds("concurrency_grace_period")?;
        Ok(
            (interval.is_some() || grace.is_some()).then_some(StreamDemand {
                limit: None,
                interval,
                grace,
            }),
        )
    }

    fn access(&self, demands: &mut Demands) -> Result<(), MessageFault> {
        self.holds_only(&[
            "prevent_drm_message_reuse",
            "concurrency_limit",
            "concurrency_mode",
            "allowed_ip_addresses",
            "widevine",
            "playready",
            "fairplay",
        ])?;
        demands.single_use = self.boolean("prevent_drm_message_reuse")?.unwrap_or(false);
        let limit = self.read("concurrency_limit", |value| {
            u32::try_from(value.as_u64()?).ok()
        })?;
        let limited = match self.text("concurrency_mode")? {
            None => limit.is_some(),
            Some("NONE") => false,
            Some("BLOCK_NEW_DEVICE") => true,
            Some(_) => return Err(self.unsupported("concurrency_mode")),
        };
        if limited {
            let limit = limit.ok_or_else(|| self.fault("concurrency_limit"))?;
            let streams = demands.streams.get_or_insert_default();
            streams.limit = Some(limit);
        }
        if let Some(addresses) = self.texts("allowed_ip_addresses")? {
            let blocks: Result<_, _> = addresses.into_iter().map(str::parse).collect();
            demands.addresses = Some(blocks.map_err(|_| self.fault("allowed_ip_addresses"))?);
        }
        for (name, _) in SYSTEMS {
            let Some(block) = self.object(name)? else {
                continue;
            };
            block.holds_only(&[
                "allowed_device_ids",
                "min_vmp_level",
                "allow_tampered_platforms",
                "allow_non_vmp_platforms",
            ])?;
            // Only the operator's licensed service can see into a challenge, and it has its own settings. What is not kept
            // here is refused, and never passed over.
            for forbids in ["allow_tampered_platforms", "allow_non_vmp_platforms"] {
                if block.boolean(forbids)? == Some(false) {
                    return Err(block.unsupported(forbids));
                }
            }
            for asks in ["min_vmp_level", "allowed_device_ids"] {
                if block.member(asks).is_some() {
                    return Err(block.unsupported(asks));
                }
            }
        }
        Ok(())
    }

    fn policies(&self) -> Result<BTreeMap<&'a str, KeyDemandOrFault>, MessageFault> {
        let mut policies = BTreeMap::new();
        for policy in self
            .objects("content_key_usage_policies")?
            .unwrap_or_default()
        {
            let name = policy.text("name")?.ok_or_else(|| policy.fault("name"))?;
            // One that nothing refers to is ignored, whatever it says.
            if policies.insert(name, policy.key_demand()).is_some() {
                return Err(policy.fault("name"));
            }
        }
        Ok(policies)
    }

    fn key_demand(&self) -> Result<KeyDemand, MessageFault> {
        self.holds_only(&["name", "widevine", "playready", "fairplay"])?;
        Ok(KeyDemand {
            widevine: match self.object("widevine")? {
                Some(widevine) => widevine.widevine()?,
                None => WidevineDemand::default(),
            },
            playready: match self.object("playready")? {
                Some(playready) => playready.playready()?,
                None => PlayReadyDemand::default(),
            },
            fairplay: match self.object("fairplay")? {
                Some(fairplay) => fairplay.fairplay()?,
                None => FairPlayHdcp::None,
            },
        })
    }

    fn widevine(&self) -> Result<WidevineDemand, MessageFault> {
        self.holds_only(&["device_security_level", "hdcp", "cgms-a"])?;
        let level = self.read("device_security_level", |value| {
            Some(match value.as_str()? {
                "SW_SECURE_CRYPTO" => WidevineLevel::SwSecureCrypto,
                "SW_SECURE_DECODE" => WidevineLevel::SwSecureDecode,
                "HW_SECURE_CRYPTO" => WidevineLevel::HwSecureCrypto,
                "HW_SECURE_DECODE" => WidevineLevel::HwSecureDecode,
                "HW_SECURE_ALL" => WidevineLevel::HwSecureAll,
                _ => return None,
            })
        })?;
        let hdcp = self.read("hdcp", |value| {
            Some(match value.as_str()? {
                "NONE" => Hdcp::None,
                "1.0" | "1.1" | "1.2" | "1.3" | "1.4" => Hdcp::V1,
                "2.0" => Hdcp::V2,
                "2.1" => Hdcp::V2_1,
                "2.2" => Hdcp::V2_2,
                "2.3" => Hdcp::V2_3,
                _ => return None,
            })
        })?;
        // Copy control without a way to say it becomes no analogue output.
        let analogue = self.read("cgms-a", |value| {
            let copies = value.as_str()?;
            Some(
                ["NONE", "FREE", "COPY_FREE"]
                    .iter()
                    .any(|it| copies.eq_ignore_ascii_case(it)),
            )
        })?;
        let least = WidevineDemand::default();
        Ok(WidevineDemand {
            security_level: level.unwrap_or(least.security_level),
            hdcp: hdcp.unwrap_or(least.hdcp),
            analogue: analogue.unwrap_or(least.analogue),
        })
    }

    /// The levels of PlayReady's compliance rules: uncompressed digital video above 100 needs HDCP, analogue video above 100
    /// needs copy control. Of the other kinds of output only what every licence asks anyway is taken.
    fn playready(&self) -> Result<PlayReadyDemand, MessageFault> {
        self.holds_only(&[
            "min_device_security_level",
            "analog_video_opl",
            "compressed_digital_audio_opl",
            "uncompressed_digital_audio_opl",
            "compressed_digital_video_opl",
            "uncompressed_digital_video_opl",
            "source_id",
            "play_enablers",
            "analog_video_output_protections",
            "digital_video_output_protections",
            "digital_audio_output_protections",
        ])?;
        for (name, most) in [
            ("compressed_digital_audio_opl", 200),
            ("uncompressed_digital_audio_opl", 200),
            ("compressed_digital_video_opl", 400),
        ] {
            if self.number(name)?.is_some_and(|level| level > most) {
                return Err(self.unsupported(name));
            }
        }
        for name in [
            "analog_video_output_protections",
            "digital_video_output_protections",
            "digital_audio_output_protections",
        ] {
            if self.objects(name)?.is_some_and(|list| !list.is_empty()) {
                return Err(self.unsupported(name));
            }
        }
        let level = self.read("min_device_security_level", |value| {
            Some(match value.as_u64()? {
                150 => PlayReadyLevel::Sl150,
                2000 => PlayReadyLevel::Sl2000,
                3000 => PlayReadyLevel::Sl3000,
                _ => return None,
            })
        })?;
        let above_100 = |level: Option<u64>| level.is_some_and(|level| level > 100);
        let least = PlayReadyDemand::default();
        Ok(PlayReadyDemand {
            security_level: level.unwrap_or(least.security_level),
            hdcp: above_100(self.number("uncompressed_digital_video_opl")?),
            analogue: !above_100(self.number("analog_video_opl")?),
        })
    }

    fn fairplay(&self) -> Result<FairPlayHdcp, MessageFault> {
        self.holds_only(&["hdcp", "allow_airplay", "allow_av_adapter"])?;
        for forbids in ["allow_airplay", "allow_av_adapter"] {
            if self.boolean(forbids)? == Some(false) {
                return Err(self.unsupported(forbids));
            }
        }
        let hdcp = self.read("hdcp", |value| {
            Some(match value.as_str()? {
                "NONE" => FairPlayHdcp::None,
                "TYPE0" => FairPlayHdcp::Type0,
                "TYPE1" | "TYPE1_STRICT" => FairPlayHdcp::Type1,
                _ => return None,
            })
        })?;
        Ok(hdcp.unwrap_or_default())
    }

    /// Which keys, and what is asked for each.
    fn keys(
        &self,
        policies: &BTreeMap<&str, KeyDemandOrFault>,
    ) -> Result<(Option<BTreeSet<KeyId>>, KeyDemands), MessageFault> {
        if ["keys", "key_seed_id", "keys_based_on_request"]
            .iter()
            .any(|it| self.member(it).is_some())
        {
            return Err(MessageFault::FirstVersion);
        }
        let source = self.object("content_keys_source")?;
        let source = source.ok_or_else(|| self.fault("content_keys_source"))?;
        source.holds_only(&["inline", "license_request", "stored"])?;
        let named = (source.objects("inline")?, source.objects("stored")?);
        let keys = match (named, source.object("license_request")?) {
            ((Some(keys), None), None) | ((None, Some(keys)), None) => keys,
            ((None, None), Some(request)) => {
                request.holds_only(&["seed_id", "usage_policy"])?;
                let every = request.usage_policy(policies)?;
                return Ok((
                    None,
                    KeyDemands {
                        every,
                        ..KeyDemands::default()
                    },
                ));
            }
            _ => return Err(MessageFault::NotOneSource),
        };
        let mut of = BTreeMap::new();
        for key in keys {
            for wrapped in ["encrypted_key", "iv"] {
                if key.member(wrapped).is_some() {
                    return Err(MessageFault::KeyEncrypted(key.path(wrapped)));
                }
            }
            key.holds_only(&["id", "seed_id", "usage_policy", "encrypted_key", "iv"])?;
            let id = key.read("id", key_id)?.ok_or_else(|| key.fault("id"))?;
            if of.insert(id, key.usage_policy(policies)?).is_some() {
                return Err(key.fault("id"));
            }
        }
        let every = KeyDemand::default();
        Ok((Some(of.keys().copied().collect()), KeyDemands { every, of }))
    }

    fn usage_policy(
        &self,
        policies: &BTreeMap<&str, KeyDemandOrFault>,
    ) -> Result<KeyDemand, MessageFault> {
        match self.text("usage_policy")? {
            None => Ok(KeyDemand::default()),
            Some(name) => match policies.get(name) {
                Some(demand) => demand.clone(),
                None => Err(MessageFault::PolicyMissing(self.path("usage_policy"))),
            },
        }
    }
}

type KeyDemandOrFault = Result<KeyDemand, MessageFault>;
