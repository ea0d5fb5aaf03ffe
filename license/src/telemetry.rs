//! What is counted. Labels are constants of this program, or names from its configuration: no asset, key or viewer ever
//! becomes one.

use std::time::Duration;

use crate::admission::Class;
use crate::decision_log::Outcome;

/// Counts a decision and the time that it took.
pub(crate) fn decided(outcome: &Outcome, took: Duration) {
    let (result, reason) = labels(outcome, "entitled");
    metrics::counter!("castellum_licenses_total", "result" => result, "reason" => reason)
        .increment(1);
    metrics::histogram!("castellum_license_duration_seconds").record(took.as_secs_f64());
}

/// Counts a request that was told to come again, before anything was decided.
pub(crate) fn shed(class: Class) {
    metrics::counter!("castellum_license_shed_total", "class" => class.as_str()).increment(1);
}

/// Counts a request that had to wait until it was worked on, and for how long.
pub(crate) fn waited(class: Class, waited: Duration) {
    metrics::histogram!("castellum_license_queue_seconds", "class" => class.as_str())
        .record(waited.as_secs_f64());
}

/// What came out, and why; `granted` is the reason of what is granted.
const fn labels(outcome: &Outcome, granted: &'static str) -> (&'static str, &'static str) {
    match outcome {
        Outcome::Granted => ("granted", granted),
        Outcome::Released => ("released", "released"),
        Outcome::Refused { reason, .. } => ("refused", *reason),
    }
}

/// Counts an answer to a partner in key exchange, and the time that it took.
pub(crate) fn exchanged(protocol: &'static str, outcome: &Outcome, took: Duration) {
    let (result, reason) = labels(outcome, "granted");
    metrics::counter!(
        "castellum_key_exchanges_total", "protocol" => protocol, "result" => result, "reason" => reason
    )
    .increment(1);
    metrics::histogram!("castellum_key_exchange_duration_seconds").record(took.as_secs_f64());
}

/// Counts a fetch of an issuer's keys. The label is the configured name: there are as many as issuers.
pub(crate) fn keys_fetched(issuer: &str, came: bool) {
    let result = if came { "fetched" } else { "failed" };
    metrics::counter!(
        "castellum_license_issuer_keys_total", "issuer" => issuer.to_owned(), "result" => result
    )
    .increment(1);
}

/// Counts a true token by whether it was remembered from before, so that its signature needed no verifying.
pub(crate) fn token_verified(remembered: bool) {
    let result = if remembered { "hit" } else { "miss" };
    metrics::counter!("castellum_license_token_cache_total", "result" => result).increment(1);
}
