//! Problems: whatever a refusal holds, its document is one JSON object of the shape of RFC 9457; a detail is in it as it is,
//! and what is for operators alone is not.
#![no_main]

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use http_body_util::BodyExt as _;
use libfuzzer_sys::fuzz_target;
use license::entitlement::{MessageFault, Token};
use license::format::clearkey::Request;
use license::format::fairplay::Spc;
use license::format::playready;
use license::http::rescue::rescue;
use license::{ChallengeFault, Refusal};
use origin_front::{Problem, Response};
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data).into_owned();
    let problem = Problem::new(
        http::StatusCode::BAD_REQUEST,
        "request-malformed",
        "Malformed",
    );
    let document = read(problem.detail(text.clone()).into_response());
    assert_eq!(document["detail"], text.as_str());

    // What upstreams and tokens say is never told.
    let holding: [fn(String) -> Refusal; 5] = [
        Refusal::UpstreamRefused,
        Refusal::UpstreamUnavailable,
        Refusal::UpstreamUnfit,
        |text| MessageFault::Malformed(text).into(),
        |text| MessageFault::Unsupported(text).into(),
    ];
    for refusal in holding {
        let told = read(rescue(&refusal(text.clone())));
        assert_eq!(told, read(rescue(&refusal(String::new()))));
    }

    // Nor is it, where it is a request that is none.
    let faults = [
        Request::read(data).err().map(Refusal::from),
        (playready::key_ids(data).err()).map(|fault| ChallengeFault::from(fault).into()),
        (Spc::read(data).err()).map(|fault| ChallengeFault::from(fault).into()),
        Token::parse(&text).err().map(Refusal::from),
    ];
    for refusal in faults.into_iter().flatten() {
        read(rescue(&refusal));
    }
});

/// The document, which fits its response.
fn read(response: Response) -> Value {
    let (head, body) = response.into_parts();
    let collecting = pin!(body.collect());
    let Poll::Ready(Ok(body)) = collecting.poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("a problem is there as a whole");
    };
    let document: Value = serde_json::from_slice(&body.to_bytes()).expect("one JSON document");
    let kind = document["type"].as_str().expect("a type");
    assert!(kind.starts_with("urn:castellum:problem:"));
    assert_eq!(document["status"], head.status.as_u16());
    assert!(document["title"].is_string());
    assert!(document.get("detail").is_none_or(Value::is_string));
    document
}
