//! ClearKey licence requests and releases: what is read names at least one key, each once, and reads the same when written
//! in the form that EME shows.
#![no_main]

use libfuzzer_sys::fuzz_target;
use license::format::clearkey::{MAX_KEYS, Release, Request, acknowledge};
use license::http::route::Route;

fuzz_target!(|data: &[u8]| {
    if let Ok(request) = Request::read(data) {
        assert!((1..=MAX_KEYS).contains(&request.key_ids.len()));
        let ids: Vec<_> = request.key_ids.iter().map(|id| id.to_base64url()).collect();
        let again = serde_json::json!({ "kids": ids }).to_string();
        let again = Request::read(again.as_bytes()).expect("our own writing");
        assert_eq!(again.key_ids, request.key_ids);
    }
    if let Ok(release) = Release::read(data) {
        let written = acknowledge(&release.key_ids);
        assert_eq!(Release::read(written.as_bytes()), Ok(release));
    }
    if let Some(route) = str::from_utf8(data).ok().and_then(Route::parse) {
        assert_eq!(route.to_string().as_bytes(), data);
    }
});
