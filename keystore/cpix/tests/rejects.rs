//! Each `tests/rejects/NAME.xml` has faults, and `NAME.txt` is what is said of them: all, with path, line and column.
//! A name that begins with `v1` is a request of SPEKE 1.0, with `v2` of 2.0, with `v21` of 2.1; any other is a
//! document.
//!
//! `CASTELLUM_UPDATE_GOLDEN=1 cargo test -p cpix` writes the messages anew.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod key_server;

use cpix::speke::Request;
use cpix::{Document, Error, Limits, Reading};
use key_server::{headers, path};

fn refuse(name: &str, bytes: &[u8]) -> Option<Error> {
    let version = match name.split('-').next() {
        Some("v1") => None,
        Some("v2") => Some("2.0"),
        Some("v21") => Some("2.1"),
        _ => return Document::read(bytes, &Reading::default()).err(),
    };
    Request::read(&headers(version), bytes, &Limits::default()).err()
}

#[test]
fn every_bad_file_is_refused_in_these_words() {
    let mut names: Vec<String> = std::fs::read_dir(path("rejects"))
        .unwrap()
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.strip_suffix(".xml").map(str::to_owned)
        })
        .collect();
    names.sort();
    assert!(names.len() >= 40, "only {} bad files", names.len());
    let mut wrong = Vec::new();
    for name in &names {
        let Some(error) = refuse(
            name,
            &std::fs::read(path(&format!("rejects/{name}.xml"))).unwrap(),
        ) else {
            panic!("{name}.xml was taken")
        };
        let faults: Vec<String> = error
            .faults()
            .iter()
            .map(|fault| format!("{fault}\n"))
            .collect();
        let said = format!("{:?}\n{}", error.kind(), faults.concat());
        let golden = path(&format!("rejects/{name}.txt"));
        if std::env::var_os("CASTELLUM_UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &said).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        if said != expected {
            wrong.push(format!(
                "{name}: expected\n{expected}but it is said\n{said}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
