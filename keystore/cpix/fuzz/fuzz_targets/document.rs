//! CPIX documents: what is read reads the same when it is written, and no error is without words.
#![no_main]

use cpix::{Document, Namespaces, Reading};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for namespaces in [Namespaces::Required, Namespaces::Assumed] {
        let reading = Reading {
            namespaces,
            ..Reading::default()
        };
        match Document::read(data, &reading) {
            Ok(document) => {
                let text = document.export_clear();
                let again = Document::read(text.as_bytes(), &Reading::default());
                let again = again.expect("our own writing");
                assert_eq!(*again.export_clear(), *text);
            }
            Err(error) => assert!((1..=20).contains(&error.faults().len())),
        }
    }
});
