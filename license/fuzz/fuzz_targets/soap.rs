//! PlayReady challenges: whatever they hold, the keys that are read are few and each there once, and no message with a
//! document type is read at all; whatever is taken for a token looks like one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use license::format::playready::{MAX_KEYS, answer, key_ids, tokens};

fuzz_target!(|data: &[u8]| {
    if let Ok(mut ids) = key_ids(data) {
        assert!((1..=MAX_KEYS).contains(&ids.len()));
        let before = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), before);
        let text = str::from_utf8(data).expect("only UTF-8 is read");
        assert!(text.contains("WRMHEADER") && text.contains("KID"));
    }
    for token in tokens(data) {
        assert_eq!(token.split('.').count(), 3);
        assert!(!token.contains(char::is_whitespace));
    }
    let _ = answer(data);
});
