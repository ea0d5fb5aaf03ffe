#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::time::Duration;

use keystore_client::KeyDescription;

use super::terms::{FairPlayHdcp, Hdcp, PlayReadyLevel};
use super::*;
use crate::UnixTime;

const NOW: UnixTime = UnixTime::from_seconds(1_700_000_000);

const fn id(number: u8) -> KeyId {
    KeyId::new([number; 16])
}

const AUDIO: KeyId = id(1);
const SD: KeyId = id(2);
const HD: KeyId = id(3);
const UHD: KeyId = id(4);
const HD_CENC: KeyId = id(5);
const ABSENT: KeyId = id(6);

/// A request for every key of a film by a token that covers all of it.
fn case(system: System) -> Case {
    let requested = vec![AUDIO, SD, HD, UHD, HD_CENC, ABSENT];
    let describe = |key_id, label, scheme| KeyDescription {
        key_id,
        label,
        scheme,
    };
    let case = serde_json::json!({
        "time": NOW, "system": system, "asset": "film", "covers_asset": true,
        "requested": requested, "covered": requested,
    });
    Case {
        keys: vec![
            describe(AUDIO, Label::Audio, Scheme::Cbcs),
            describe(SD, Label::Sd, Scheme::Cbcs),
            describe(HD, Label::Hd, Scheme::Cbcs),
            describe(UHD, Label::Uhd1, Scheme::Cbcs),
            describe(HD_CENC, Label::Hd, Scheme::Cenc),
        ],
        ..serde_json::from_value(case).unwrap()
    }
}

fn rules(policy: PolicyRule) -> Rules {
    Rules {
        allow_clear_key: true,
        policies: [("premium".to_owned(), policy)].into(),
        default_policy: Some("premium".to_owned()),
    }
}

fn granted(case: &Case, rules: &Rules) -> Grant {
    match decide(case, rules) {
        Decision::Grant(grant) => grant,
        Decision::Refuse(refusal) => panic!("{refusal}"),
    }
}

fn refused(case: &Case, rules: &Rules) -> Refusal {
    match decide(case, rules) {
        Decision::Grant(grant) => panic!("{grant:?}"),
        Decision::Refuse(refusal) => {
            assert!(
                explain::DECIDED.contains(&refusal.reason()),
                "it is replayed"
            );
            refusal
        }
    }
}

#[test]
fn an_asset_that_is_not_covered_is_refused_first() {
    let other = Case {
        covers_asset: false,
        ..case(System::ClearKey)
    };
    assert_eq!(
        refused(&other, &Rules::default()),
        Refusal::AssetNotEntitled
    );
}

#[test]
fn without_a_policy_every_covered_key_is_given_and_none_may_be_kept() {
    let rules = Rules {
        allow_clear_key: true,
        ..Rules::default()
    };
    for system in [System::ClearKey, System::Hls, System::Widevine] {
        let grant = granted(&case(system), &rules);
        assert_eq!(grant.key_ids(), [AUDIO, SD, HD, UHD, HD_CENC]);
        assert_eq!(grant.terms, Terms::default());
        assert_eq!(grant.left_out, []);
    }
    let kept = Case {
        persistent: true,
        ..case(System::Widevine)
    };
    assert_eq!(refused(&kept, &rules), Refusal::PersistenceNotAllowed);
}

#[test]
fn a_policy_is_for_its_systems_and_its_scheme() {
    let policy = PolicyRule {
        systems: Some(vec![conf::System::Widevine]),
        scheme: Some(Scheme::Cenc),
        ..PolicyRule::default()
    };
    let rules = rules(policy);
    assert_eq!(
        granted(&case(System::Widevine), &rules).key_ids(),
        [HD_CENC]
    );
    assert_eq!(
        refused(&case(System::PlayReady), &rules),
        Refusal::PolicyUnmet
    );
    assert_eq!(refused(&case(System::Hls), &rules), Refusal::PolicyUnmet);
    let unheard_of = Case {
        policy: Some("gold".to_owned()),
        ..case(System::Widevine)
    };
    assert_eq!(refused(&unheard_of, &rules), Refusal::PolicyUnmet);
    let cbcs_only = Case {
        covered: vec![SD],
        ..case(System::Widevine)
    };
    assert_eq!(refused(&cbcs_only, &rules), Refusal::KeysUnknown);
}

#[test]
fn a_key_whose_rule_is_unmet_is_left_out_and_the_others_play() {
    let protected = KeyRule {
        hdcp: Hdcp::V2_2,
        ..KeyRule::default()
    };
    let robust = KeyRule {
        playready: PlayReadyLevel::Sl3000,
        ..KeyRule::default()
    };
    let rules = rules(PolicyRule {
        scheme: Some(Scheme::Cbcs),
        keys: [(Label::Hd, protected), (Label::Uhd1, robust)].into(),
        ..PolicyRule::default()
    });
    for system in [System::ClearKey, System::Hls] {
        let grant = granted(&case(system), &rules);
        assert_eq!(grant.key_ids(), [AUDIO, SD]);
        let left_out = |key_id, why| LeftOut { key_id, why };
        assert_eq!(
            grant.left_out,
            [
                left_out(HD, Unmet::Outputs),
                left_out(UHD, Unmet::Robustness)
            ]
        );
        let only = Case {
            covered: vec![HD],
            ..case(system)
        };
        let reasons = vec![left_out(HD, Unmet::Outputs)];
        assert_eq!(refused(&only, &rules), Refusal::RulesUnmet(reasons));
    }
    // Who has a protected path keeps the rule itself, FairPlay in its own words.
    for (system, fairplay_hdcp) in [
        (System::Widevine, FairPlayHdcp::None),
        (System::PlayReady, FairPlayHdcp::None),
        (System::FairPlay, FairPlayHdcp::Type1),
    ] {
        let grant = granted(&case(system), &rules);
        assert_eq!(grant.key_ids(), [AUDIO, SD, HD, UHD]);
        let kept = KeyRule {
            fairplay_hdcp,
            ..protected
        };
        assert_eq!(grant.keys[2].rule, kept);
        assert_eq!(grant.keys[3].rule, robust);
    }
}

#[test]
fn a_rule_about_outputs_that_fairplay_cannot_keep_drops_the_key() {
    let free = KeyRule::default();
    for asked in [
        KeyRule {
            no_analogue: true,
            ..free
        },
        KeyRule {
            no_digital: true,
            ..free
        },
        KeyRule {
            hdcp: Hdcp::V2_3,
            ..free
        },
    ] {
        let rules = rules(PolicyRule {
            scheme: Some(Scheme::Cbcs),
            keys: [(Label::Hd, asked)].into(),
            ..PolicyRule::default()
        });
        let grant = granted(&case(System::FairPlay), &rules);
        assert_eq!(grant.key_ids(), [AUDIO, SD, UHD]);
        let why = Unmet::Outputs;
        assert_eq!(grant.left_out, [LeftOut { key_id: HD, why }]);
        let only = Case {
            covered: vec![HD],
            ..case(System::FairPlay)
        };
        assert_eq!(refused(&only, &rules).reason(), "rules_unmet");
        assert_eq!(granted(&case(System::Widevine), &rules).left_out, []);
    }
}

#[test]
fn a_key_that_is_protected_for_fairplay_is_not_given_in_the_open() {
    for fairplay_hdcp in [FairPlayHdcp::Type0, FairPlayHdcp::Type1] {
        let rule = KeyRule {
            fairplay_hdcp,
            ..KeyRule::default()
        };
        let by_policy = rules(PolicyRule {
            scheme: Some(Scheme::Cbcs),
            keys: [(Label::Hd, rule)].into(),
            ..PolicyRule::default()
        });
        let free = rules(PolicyRule {
            scheme: Some(Scheme::Cbcs),
            ..PolicyRule::default()
        });
        for system in [System::ClearKey, System::Hls] {
            let by_token = Case {
                rules: [(HD, rule)].into(),
                ..case(system)
            };
            for (case, rules) in [(&case(system), &by_policy), (&by_token, &free)] {
                let grant = granted(case, rules);
                assert_eq!(grant.key_ids(), [AUDIO, SD, UHD]);
                let why = Unmet::Outputs;
                assert_eq!(grant.left_out, [LeftOut { key_id: HD, why }]);
            }
        }
    }
}

#[test]
fn pictures_are_bounded_in_every_system_and_sound_is_not() {
    for (max_video, expected) in [
        (Label::Sd, &[AUDIO, SD][..]),
        (Label::Hd, &[AUDIO, SD, HD, HD_CENC]),
        (Label::Uhd2, &[AUDIO, SD, HD, UHD, HD_CENC]),
    ] {
        let rules = rules(PolicyRule {
            max_video: Some(max_video),
            ..PolicyRule::default()
        });
        for system in [System::ClearKey, System::Hls, System::FairPlay] {
            let grant = granted(&case(system), &rules);
            assert_eq!(grant.key_ids(), expected);
            let out = grant.left_out.iter();
            assert!(out.clone().all(|out| out.why == Unmet::Resolution));
            assert_eq!(out.len(), 5 - expected.len());
        }
    }
}

#[test]
fn licences_are_given_from_a_first_moment_to_a_last() {
    let at = |begins, expires| {
        rules(PolicyRule {
            terms: Terms {
                begins: Some(UnixTime::from_seconds(begins)),
                expires: Some(UnixTime::from_seconds(expires)),
                ..Terms::default()
            },
            ..PolicyRule::default()
        })
    };
    let now = NOW.as_seconds();
    let case = case(System::Widevine);
    granted(&case, &at(now, now + 1));
    assert_eq!(
        refused(&case, &at(now + 1, now + 2)),
        Refusal::NotYetAvailable
    );
    assert_eq!(
        refused(&case, &at(now - 1, now)),
        Refusal::NoLongerAvailable
    );
}

#[test]
fn one_key_that_is_not_covered_spoils_a_strict_request() {
    let some = Case {
        covered: vec![AUDIO, SD],
        ..case(System::ClearKey)
    };
    let rules = rules(PolicyRule::default());
    assert_eq!(granted(&some, &rules).key_ids(), [AUDIO, SD]);
    let strict = Case {
        strict: true,
        ..some
    };
    assert_eq!(refused(&strict, &rules), Refusal::KeysNotEntitled);
}

#[test]
fn what_is_open_needs_the_tenant() {
    let rules = Rules {
        allow_clear_key: false,
        ..rules(PolicyRule::default())
    };
    for system in [System::ClearKey, System::Hls] {
        assert_eq!(refused(&case(system), &rules), Refusal::ClearKeyNotAllowed);
    }
    granted(&case(System::Widevine), &rules);
}

#[test]
fn an_open_licence_is_kept_only_where_it_need_not_end() {
    let case = |system| Case {
        persistent: true,
        ..case(system)
    };
    let with = |terms| {
        rules(PolicyRule {
            terms: Terms {
                persistent: true,
                ..terms
            },
            ..PolicyRule::default()
        })
    };
    granted(&case(System::ClearKey), &with(Terms::default()));
    let hour = Some(Duration::from_secs(3600));
    let renewal = terms::Renewal {
        after: Duration::from_secs(60),
        retry: Duration::from_secs(10),
        recovery: Duration::from_secs(60),
    };
    for ending in [
        Terms {
            expires: Some(NOW.plus(Duration::from_secs(3600))),
            ..Terms::default()
        },
        Terms {
            license_duration: hour,
            ..Terms::default()
        },
        Terms {
            rental_duration: hour,
            ..Terms::default()
        },
        Terms {
            playback_duration: hour,
            ..Terms::default()
        },
        Terms {
            renewal: Some(renewal),
            ..Terms::default()
        },
    ] {
        let rules = with(ending);
        assert_eq!(
            refused(&case(System::ClearKey), &rules),
            Refusal::PersistenceNotAllowed
        );
        granted(&case(System::Widevine), &rules);
        let temporary = Case {
            persistent: false,
            ..case(System::ClearKey)
        };
        granted(&temporary, &rules);
    }
}

#[test]
fn a_recorded_case_is_decided_alike() {
    let rules = rules(PolicyRule {
        terms: Terms {
            persistent: true,
            license_duration: Some(Duration::from_secs(60)),
            ..Terms::default()
        },
        ..PolicyRule::default()
    });
    let case = Case {
        persistent: true,
        strict: true,
        policy: Some("premium".to_owned()),
        ..case(System::PlayReady)
    };
    let recorded = serde_json::to_string(&case).unwrap();
    let read: Case = serde_json::from_str(&recorded).unwrap();
    assert_eq!(read, case);
    assert_eq!(decide(&read, &rules), decide(&case, &rules));
}

#[test]
fn an_explanation_names_the_policy_that_decided() {
    use super::explain::{Explanation, explain};
    let policy = |case: &Case, rules: &Rules| match explain(case, rules) {
        Explanation::Granted { policy, .. } => policy,
        Explanation::Refused { reason, .. } => panic!("{reason}"),
    };
    let by_default = rules(PolicyRule::default());
    let mut case = case(System::Widevine);
    assert_eq!(policy(&case, &by_default).as_deref(), Some("premium"));
    let mut both = by_default.clone();
    both.policies
        .insert("own".to_owned(), PolicyRule::default());
    case.policy = Some("own".to_owned());
    assert_eq!(policy(&case, &both).as_deref(), Some("own"));
    case.policy = None;
    let none = Rules {
        default_policy: None,
        ..both
    };
    assert_eq!(policy(&case, &none), None);
}
