//! Tokens of other shapes than our own: the claims of DASH-IF's guidelines, and entitlement messages.

use serde_json::{Value, json};

use super::*;
use crate::policy::terms::{FairPlayHdcp, Hdcp, PlayReadyLevel, Renewal, WidevineLevel};

const KID: &str = "9eb4050d-e44b-4802-932e-27d75083e266";
const OTHER: &str = "1611f0c8-487c-44d4-9b19-82e5a6d55084";

fn key_id(text: &str) -> KeyId {
    text.parse().unwrap()
}

mod dash_if {
    use super::*;

    fn verifier(iss: Option<&str>, audience: Option<&str>) -> Verifier {
        Verifier::new(vec![Issuer {
            shape: Shape::DashIf,
            iss: iss.map(str::to_owned),
            audience: audience.map(str::to_owned),
            ..issuer(VerificationKey::read(Algorithm::Hs256, SECRET).unwrap())
        }])
    }

    #[test]
    fn the_minimal_claims_name_keys_whatever_their_asset() {
        let claims = format!(r#"{{"exp":1700000060,"authorized_kids":["{KID}"]}}"#);
        let entitlement = verifier(None, None)
            .verify(&signed(HEADER, &claims), NOW)
            .unwrap();
        assert!(entitlement.covers_asset(&"film".parse().unwrap()));
        assert!(entitlement.covers_key(&key_id(KID)));
        assert!(!entitlement.covers_key(&key_id(OTHER)));
        assert_eq!(entitlement.kid_rule(), KidRule::Subset);
    }

    /// As in the guidelines' example, where it is a text in the header.
    #[test]
    fn the_end_may_stand_in_the_header() {
        use Refusal::{ClaimMalformed, ClaimMissing, TokenExpired};
        let kids = format!(r#""authorized_kids":["{KID}"]"#);
        for (header, exp, expected) in [
            (r#"{"alg":"HS256","exp":"1700000060"}"#, "", None),
            (r#"{"alg":"HS256","exp":1700000060}"#, "", None),
            (
                r#"{"alg":"HS256","exp":"1516239022"}"#,
                "",
                Some(TokenExpired),
            ),
            (
                r#"{"alg":"HS256","exp":"1700000060"}"#,
                r#""exp":1700000060,"#,
                None,
            ),
            (
                r#"{"alg":"HS256","exp":"1700000060"}"#,
                r#""exp":1700000061,"#,
                Some(ClaimMalformed("exp")),
            ),
            (
                r#"{"alg":"HS256","exp":"-1"}"#,
                "",
                Some(ClaimMalformed("exp")),
            ),
            (
                r#"{"alg":"HS256","exp":""}"#,
                "",
                Some(ClaimMalformed("exp")),
            ),
            (
                r#"{"alg":"HS256","exp":"253402300800"}"#,
                "",
                Some(ClaimMalformed("exp")),
            ),
            (
                r#"{"alg":"HS256"}"#,
                r#""exp":"1700000060","#,
                Some(ClaimMalformed("exp")),
            ),
            (r#"{"alg":"HS256"}"#, "", Some(ClaimMissing("exp"))),
        ] {
            let token = signed(header, &format!("{{{exp}{kids}}}"));
            let verdict = verifier(None, None).verify(&token, NOW);
            assert_eq!(
                verdict.err().map(|it| it.refusal),
                expected,
                "{header} {exp}"
            );
        }
    }

    #[test]
    fn issuer_and_audience_count_where_they_are_configured() {
        let claims = |more: &str| {
            let claims = format!(r#"{{{more}"exp":1700000060,"authorized_kids":["{KID}"]}}"#);
            signed(HEADER, &claims)
        };
        let strict = verifier(Some("ott"), Some("castellum"));
        for (more, expected) in [
            (r#""iss":"ott","aud":"castellum","#, None),
            (
                r#""iss":"else","aud":"castellum","#,
                Some(Refusal::IssuerUnknown(IssuerMismatch::Name)),
            ),
            (r#""aud":"castellum","#, Some(Refusal::ClaimMissing("iss"))),
            (r#""iss":"ott","#, Some(Refusal::ClaimMissing("aud"))),
            (
                r#""iss":"ott","aud":"else","#,
                Some(Refusal::AudienceMismatch),
            ),
        ] {
            let verdict = strict.verify(&claims(more), NOW);
            assert_eq!(verdict.err().map(|it| it.refusal), expected, "{more}");
            verifier(None, None).verify(&claims(more), NOW).unwrap();
        }
        assert_eq!(
            refusal(
                &verifier(None, None),
                &signed(HEADER, r#"{"exp":1700000060}"#)
            ),
            Refusal::ClaimMissing("authorized_kids")
        );
    }
}

mod axinom {
    use super::*;

    const COM_KEY_ID: &str = "00000000-0000-4000-8000-000000000001";

    fn verifier_of(secret: &[u8]) -> Verifier {
        Verifier::new(vec![Issuer {
            shape: Shape::Axinom,
            iss: Some(COM_KEY_ID.to_owned()),
            audience: None,
            kid_rule: KidRule::Strict,
            ..issuer(VerificationKey::read(Algorithm::Hs256, secret).unwrap())
        }])
    }

    fn envelope(message: Value) -> Value {
        json!({
            "version": 1,
            "com_key_id": COM_KEY_ID,
            "expiration_date": "2023-11-14T22:14:20Z",
            "message": message,
        })
    }

    fn message(more: Value) -> Value {
        let mut message = json!({
            "type": "entitlement_message",
            "version": 2,
            "content_keys_source": { "stored": [{ "id": KID }] },
        });
        message
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        message
    }

    fn verify(envelope: &Value) -> Result<Entitlement, Refusal> {
        let token = signed(HEADER, &envelope.to_string());
        let verdict = verifier_of(SECRET).verify(&token, NOW);
        verdict.map_err(|rejection| {
            if let Refusal::Message(_) = &rejection.refusal {
                assert_eq!(rejection.bearer.unwrap().issuer, "test");
            }
            rejection.refusal
        })
    }

    fn fault(message: Value) -> MessageFault {
        match verify(&envelope(message)) {
            Err(Refusal::Message(fault)) => fault,
            other => panic!("{other:?}"),
        }
    }

    /// The key is the bytes 00 to 1f.
    #[test]
    fn the_known_answer() {
        let token = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJ2ZXJzaW9uIjoxLCJjb21fa2V5X2lkIjoiMDAwMDAwMDAtMDAwMC00MDAwLTgwMDAtMDAwMDAwMDAwMDAxIiwibWVzc2FnZSI6eyJ0eXBlIjoiZW50aXRsZW1lbnRfbWVzc2FnZSIsInZlcnNpb24iOjIsImNvbnRlbnRfa2V5c19zb3VyY2UiOnsiaW5saW5lIjpbeyJpZCI6IjllYjQwNTBkLWU0NGItNDgwMi05MzJlLTI3ZDc1MDgzZTI2NiJ9XX19fQ.7OKt1ns256p_GeGwWGQHqynPQ7hITSl9-8qbkeaBbrI";
        let secret: Vec<u8> = (0..32).collect();
        let entitlement = verifier_of(&secret).verify(token, NOW).unwrap();
        assert!(entitlement.covers_key(&key_id(KID)));
        assert!(!entitlement.covers_key(&key_id(OTHER)));
        assert_eq!(entitlement.kid_rule(), KidRule::Strict);
        assert_eq!(entitlement.expires(), None);
        let demands = entitlement.demands();
        assert!(!demands.single_use);
        assert_eq!(demands.keys.of(&key_id(KID)), KeyDemand::default());
    }

    #[test]
    fn the_key_is_named_in_the_payload() {
        let mut other = envelope(message(json!({})));
        other["com_key_id"] = json!("00000000-0000-4000-8000-000000000002");
        let unknown = Refusal::IssuerUnknown(IssuerMismatch::Name);
        assert_eq!(verify(&other).unwrap_err(), unknown);
        other["com_key_id"] = json!(COM_KEY_ID.to_uppercase());
        verify(&other).unwrap();
        // An `iss` beside it says nothing.
        other["iss"] = json!("ott");
        verify(&other).unwrap();
    }

    #[test]
    fn what_a_message_can_say_becomes_demands() {
        let message = message(json!({
            "license": {
                "start_datetime": "2023-11-14T00:00:00+01:00",
                "expiration_datetime": "2023-11-15T00:00:00Z",
                "duration": 3600,
                "allow_persistence": "false",
                "concurrency_interval": 60,
                "concurrency_grace_period": 30,
                "widevine": {
                    "allow_persistence": "true",
                    "playback_duration": 7200,
                    "allow_renewal": true,
                    "renewal_delay": 300,
                    "renewal_retry_interval": 10,
                    "renewal_recovery": 60,
                    "include_all_entitled_keys": true,
                    "real_time_duration_expiration": true,
                    "real_time_playback_expiration": "true",
                },
                "fairplay": { "duration": 60, "real_time_expiration": "false" },
                "playready": { "custom_data": "x" },
            },
            "session": { "user_id": "ann" },
            "license_server": {
                "return_license_request_info": true,
                "access_control": {
                    "prevent_drm_message_reuse": "true",
                    "concurrency_limit": 2,
                    "concurrency_mode": "BLOCK_NEW_DEVICE",
                    "allowed_ip_addresses": ["192.0.2.1", "2001:db8::/32"],
                },
            },
            "content_keys_source": { "inline": [
                { "id": KID.to_uppercase(), "usage_policy": "HD" },
                { "id": OTHER },
            ] },
            "content_key_usage_policies": [
                {
                    "name": "HD",
                    "widevine": { "device_security_level": "HW_SECURE_DECODE", "hdcp": "2.2" },
                    "playready": {
                        "min_device_security_level": 3000,
                        "uncompressed_digital_video_opl": 270,
                        "analog_video_opl": 150,
                        "play_enablers": ["786627D8-C2A6-44BE-8F88-08AE255B01A7"],
                    },
                    "fairplay": { "hdcp": "TYPE1_STRICT", "allow_airplay": true },
                },
                // One that nothing refers to is ignored, whatever it says.
                { "name": "none", "widevine": { "hdcp": "9.9" } },
            ],
        }));
        let entitlement = verify(&envelope(message)).unwrap();
        let demands = entitlement.demands();
        let seconds = Duration::from_secs;

        assert_eq!(
            demands.license(DrmSystem::PlayReady),
            LicenseDemand {
                persistent: Some(false),
                begins: Some(UnixTime::from_seconds(1_699_916_400)),
                expires: Some(UnixTime::from_seconds(1_700_006_400)),
                duration: Some(seconds(3600)),
                playback_duration: None,
                renewal: None,
            }
        );
        let widevine = demands.license(DrmSystem::Widevine);
        assert_eq!(widevine.persistent, Some(true));
        assert_eq!(widevine.duration, Some(seconds(3600)));
        assert_eq!(widevine.playback_duration, Some(seconds(7200)));
        let renewal = Renewal {
            after: seconds(300),
            retry: seconds(10),
            recovery: seconds(60),
        };
        assert_eq!(widevine.renewal, Some(renewal));
        assert_eq!(
            demands.license(DrmSystem::FairPlay).duration,
            Some(seconds(60))
        );

        assert!(demands.single_use);
        // It has no id of its own, so one is made of what is signed.
        assert_eq!(entitlement.bearer().token_id.as_ref().unwrap().len(), 43);
        assert_eq!(entitlement.bearer().subject.as_deref(), Some("ann"));
        let streams = StreamDemand {
            limit: Some(2),
            interval: Some(seconds(60)),
            grace: Some(seconds(30)),
        };
        assert_eq!(demands.streams, Some(streams));
        let holds = |address: &str| {
            let address = address.parse().unwrap();
            let blocks = demands.addresses.as_ref().unwrap();
            blocks.iter().any(|block| block.contains(address))
        };
        for (address, held) in [
            ("192.0.2.1", true),
            ("::ffff:192.0.2.1", true),
            ("192.0.2.2", false),
            ("2001:db8:1::2", true),
            ("2001:db9::", false),
        ] {
            assert_eq!(holds(address), held, "{address}");
        }

        assert_eq!(
            demands.keys.of(&key_id(KID)),
            KeyDemand {
                widevine: WidevineDemand {
                    security_level: WidevineLevel::HwSecureDecode,
                    hdcp: Hdcp::V2_2,
                    analogue: true,
                },
                playready: PlayReadyDemand {
                    security_level: PlayReadyLevel::Sl3000,
                    hdcp: true,
                    analogue: false,
                },
                fairplay: FairPlayHdcp::Type1,
            }
        );
        assert_eq!(demands.keys.of(&key_id(OTHER)), KeyDemand::default());

        let rule = |system| demands.keys.of(&key_id(KID)).rule(system);
        let playready = rule(Some(DrmSystem::PlayReady));
        assert_eq!((playready.hdcp, playready.no_analogue), (Hdcp::V1, true));
        assert_eq!(playready.playready, PlayReadyLevel::Sl3000);
        let all = rule(None);
        assert_eq!((all.hdcp, all.no_analogue), (Hdcp::V2_2, true));
        assert_eq!(all.fairplay_hdcp, FairPlayHdcp::Type1);
        assert!(widevine.terms().persistent);
        assert!(!demands.license(DrmSystem::PlayReady).terms().persistent);
    }

    #[test]
    fn the_keys_of_the_request_may_be_all_that_is_named() {
        let message = message(json!({
            "content_keys_source": { "license_request": { "seed_id": KID, "usage_policy": "SD" } },
            "content_key_usage_policies": [{ "name": "SD", "fairplay": { "hdcp": "TYPE0" } }],
        }));
        let entitlement = verify(&envelope(message)).unwrap();
        assert!(entitlement.covers_key(&key_id(OTHER)));
        let demand = entitlement.demands().keys.of(&key_id(OTHER));
        assert_eq!(demand.fairplay, FairPlayHdcp::Type0);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        use MessageFault::{
            FirstVersion, KeyEncrypted, Malformed, NotOneSource, PolicyMissing, Unsupported,
        };
        let malformed = |place: &str| Malformed(place.to_owned());
        let unsupported = |place: &str| Unsupported(place.to_owned());
        let source = |source: Value| json!({ "content_keys_source": source });
        let policy = |policy: Value| {
            json!({
                "content_keys_source": { "stored": [{ "id": KID, "usage_policy": "P" }] },
                "content_key_usage_policies": [policy],
            })
        };
        let access = |control: Value| json!({ "license_server": { "access_control": control } });
        const CONTROL: &str = "message.license_server.access_control";
        const POLICY: &str = "message.content_key_usage_policies[0]";
        for (more, expected) in [
            (json!({ "version": 1 }), FirstVersion),
            (json!({ "keys": [] }), FirstVersion),
            (json!({ "version": 3 }), malformed("message.version")),
            (json!({ "type": "other" }), malformed("message.type")),
            (
                json!({ "content_keys_source": null }),
                malformed("message.content_keys_source"),
            ),
            (source(json!({})), NotOneSource),
            (source(json!({ "inline": [], "stored": [] })), NotOneSource),
            (
                source(json!({ "stored": [], "license_request": {} })),
                NotOneSource,
            ),
            (
                source(json!({ "other": [] })),
                unsupported("message.content_keys_source.other"),
            ),
            (
                source(json!({ "inline": [{ "id": KID, "encrypted_key": "AAAA" }] })),
                KeyEncrypted("message.content_keys_source.inline[0].encrypted_key".to_owned()),
            ),
            (
                source(json!({ "inline": [{ "id": "x" }] })),
                malformed("message.content_keys_source.inline[0].id"),
            ),
            (
                source(json!({ "stored": [{ "id": KID }, { "id": KID }] })),
                malformed("message.content_keys_source.stored[1].id"),
            ),
            (
                source(json!({ "stored": [{ "id": KID, "usage_policy": "P" }] })),
                PolicyMissing("message.content_keys_source.stored[0].usage_policy".to_owned()),
            ),
            (
                policy(json!({ "name": "P", "widevine": { "hdcp": "9.9" } })),
                malformed(&format!("{POLICY}.widevine.hdcp")),
            ),
            (
                policy(json!({ "name": "P\u{0}" })),
                malformed(&format!("{POLICY}.name")),
            ),
            (
                policy(json!({ "name": "P", "other": {} })),
                unsupported(&format!("{POLICY}.other")),
            ),
            (
                policy(json!({ "name": "P", "fairplay": { "allow_airplay": "false" } })),
                unsupported(&format!("{POLICY}.fairplay.allow_airplay")),
            ),
            (
                policy(json!({ "name": "P", "playready": { "min_device_security_level": 151 } })),
                malformed(&format!("{POLICY}.playready.min_device_security_level")),
            ),
            (
                policy(json!({ "name": "P", "playready": {
                    "digital_video_output_protections": [{ "id": "x", "config_data": "" }] } })),
                unsupported(&format!(
                    "{POLICY}.playready.digital_video_output_protections"
                )),
            ),
            (
                json!({ "content_key_usage_policies": [{ "name": "P" }, { "name": "P" }] }),
                malformed("message.content_key_usage_policies[1].name"),
            ),
            (
                json!({ "license": { "allow_persistence": "no" } }),
                malformed("message.license.allow_persistence"),
            ),
            (
                json!({ "license": { "expiration_datetime": "tomorrow" } }),
                malformed("message.license.expiration_datetime"),
            ),
            (
                json!({ "license": { "duration": -1 } }),
                malformed("message.license.duration"),
            ),
            (
                json!({ "license": { "widevine": { "allow_playback": false } } }),
                unsupported("message.license.widevine.allow_playback"),
            ),
            (
                access(json!({ "allowed_ip_addresses": ["192.0.2.0/33"] })),
                malformed(&format!("{CONTROL}.allowed_ip_addresses")),
            ),
            (
                access(json!({ "concurrency_mode": "BLOCK_NEW_DEVICE" })),
                malformed(&format!("{CONTROL}.concurrency_limit")),
            ),
            (
                access(json!({ "concurrency_limit": 2 })),
                malformed("message.session.user_id"),
            ),
            (
                json!({ "session": { "user_id": " " } }),
                malformed("message.session.user_id"),
            ),
            (
                json!({ "session": { "user_id": "a\u{0}b" } }),
                malformed("message.session.user_id"),
            ),
            (
                json!({ "license": { "playready": { "real_time_expiration": true } } }),
                unsupported("message.license.playready.real_time_expiration"),
            ),
            (
                json!({ "license": { "fairplay": { "real_time_expiration": "true" } } }),
                unsupported("message.license.fairplay.real_time_expiration"),
            ),
            (
                json!({ "license": { "widevine": { "renew_with_usage": true } } }),
                unsupported("message.license.widevine.renew_with_usage"),
            ),
            (
                json!({ "license": { "widevine": { "real_time_playback_expiration": 1 } } }),
                malformed("message.license.widevine.real_time_playback_expiration"),
            ),
            // What nobody knows might be a rule; also what stands where it means nothing.
            (
                json!({ "license": { "max_plays": 1 } }),
                unsupported("message.license.max_plays"),
            ),
            (
                json!({ "license": { "real_time_expiration": true } }),
                unsupported("message.license.real_time_expiration"),
            ),
            (
                json!({ "license": { "fairplay": { "custom_data": "x" } } }),
                unsupported("message.license.fairplay.custom_data"),
            ),
            (
                access(json!({ "concurrency_mode": "DISPLACE" })),
                unsupported(&format!("{CONTROL}.concurrency_mode")),
            ),
            (
                access(json!({ "allowed_countries": ["FR"] })),
                unsupported(&format!("{CONTROL}.allowed_countries")),
            ),
            (
                access(json!({ "a\nb": true })),
                unsupported(&format!("{CONTROL}.?")),
            ),
            (
                access(json!({ "widevine": { "min_vmp_level": "PLATFORM_SOFTWARE_VERIFIED" } })),
                unsupported(&format!("{CONTROL}.widevine.min_vmp_level")),
            ),
            (
                access(json!({ "playready": { "allowed_device_ids": ["ed85e2bc-63d8"] } })),
                unsupported(&format!("{CONTROL}.playready.allowed_device_ids")),
            ),
            (
                access(json!({ "widevine": { "allow_tampered_platforms": false } })),
                unsupported(&format!("{CONTROL}.widevine.allow_tampered_platforms")),
            ),
        ] {
            assert_eq!(fault(message(more.clone())), expected, "{more}");
        }
        let no_message = json!({ "version": 1, "com_key_id": COM_KEY_ID });
        let verdict = verify(&no_message).unwrap_err();
        assert_eq!(verdict, Refusal::Message(malformed("message")));
    }

    #[test]
    fn the_envelope_has_its_own_times() {
        for (begin, end, expected) in [
            ("2023-11-14T22:13:20Z", "2023-11-14T22:13:21Z", None),
            (
                "2023-11-14T22:13:51Z",
                "2023-11-15T00:00:00Z",
                Some(Refusal::TokenNotYetValid),
            ),
            (
                "2023-11-14T00:00:00Z",
                "2023-11-14T23:12:50+01:00",
                Some(Refusal::TokenExpired),
            ),
            (
                "2023-11-14T00:00:00Z",
                "1699999999",
                Some(Refusal::Message(MessageFault::Malformed(
                    "expiration_date".to_owned(),
                ))),
            ),
        ] {
            let mut envelope = envelope(message(json!({})));
            envelope["begin_date"] = json!(begin);
            envelope["expiration_date"] = json!(end);
            assert_eq!(verify(&envelope).err(), expected, "{begin} {end}");
        }
    }
}

mod minted {
    use super::*;

    #[test]
    fn a_token_of_each_shape_is_taken_by_an_issuer_of_that_shape() {
        let key = SigningKey::read(Algorithm::Hs256, SECRET).unwrap();
        let claims = Claims {
            kids: Some(vec![key_id(KID)]),
            sub: Some("ann".to_owned()),
            ..Claims::until(NOW.plus(Duration::from_secs(60)))
        };
        let of = |shape, iss: Option<&str>| {
            Verifier::new(vec![Issuer {
                shape,
                iss: iss.map(str::to_owned),
                audience: None,
                ..issuer(VerificationKey::read(Algorithm::Hs256, SECRET).unwrap())
            }])
        };
        let com_key_id = "00000000-0000-4000-8000-000000000001";
        for (shape, iss, key_id) in [
            (Shape::DashIf, None, None),
            (Shape::Axinom, Some(com_key_id), Some(com_key_id)),
        ] {
            let token = mint::mint_as(shape, &claims, key_id, &key).unwrap();
            let entitlement = of(shape, iss).verify(&token, NOW).unwrap();
            assert!(entitlement.covers_key(&self::key_id(KID)));
            assert_eq!(entitlement.expires(), Some(claims.exp));
            assert_eq!(entitlement.bearer().subject.as_deref(), Some("ann"));
        }
        for (shape, claims, key_id) in [
            (Shape::Axinom, claims.clone(), None),
            (
                Shape::Axinom,
                Claims {
                    kids: None,
                    ..claims.clone()
                },
                Some(com_key_id),
            ),
            (
                Shape::DashIf,
                Claims {
                    policy: Some("cbcs".to_owned()),
                    ..claims.clone()
                },
                None,
            ),
        ] {
            mint::mint_as(shape, &claims, key_id, &key).unwrap_err();
        }
    }
}
