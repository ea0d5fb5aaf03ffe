//! FairPlay bodies in their four shapes: what is read is the same when it is sent again in each of them, and the answer in
//! a shape holds the CKC.
#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;
use license::format::fairplay::{Shape, Spc};

fuzz_target!(|data: &[u8]| {
    let Ok(spc) = Spc::read(data) else { return };
    assert!(spc.bytes.len() > 24 && (1..1 << 24).contains(&spc.version));
    let text = STANDARD.encode(&spc.bytes);
    for (body, shape) in [
        (spc.bytes.clone(), Shape::Raw),
        (text.clone().into_bytes(), Shape::Base64),
        (format!("spc={text}").into_bytes(), Shape::Form),
        (
            serde_json::json!({ "spc": text }).to_string().into_bytes(),
            Shape::Json,
        ),
    ] {
        let again = Spc::read(&body).expect("our own writing");
        assert_eq!((&again.bytes, again.shape), (&spc.bytes, shape));
    }
    let written = spc.shape.write(&spc.bytes);
    let holds = |part: &[u8]| written.windows(part.len()).any(|window| window == part);
    assert!(holds(&spc.bytes) || holds(text.as_bytes()));
});
