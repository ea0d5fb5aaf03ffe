//! The table of attacks is true: every test that it names is there, and says which row it tries.

use std::collections::BTreeSet;

const TABLE: &str = include_str!("../../../design/attacks.md");

/// The rows of RFC 8725 and of those who came after.
const ROWS: usize = 18;

const SOURCES: [(&str, &str); 7] = [
    ("entitlement/tests/attacks.rs", include_str!("attacks.rs")),
    ("entitlement/tests/key_sets.rs", include_str!("key_sets.rs")),
    ("entitlement/tests/mod.rs", include_str!("mod.rs")),
    (
        "entitlement/tests/remembered.rs",
        include_str!("remembered.rs"),
    ),
    ("http/bearer.rs", include_str!("../../http/bearer.rs")),
    ("../tests/store.rs", include_str!("../../../tests/store.rs")),
    (
        "../../packaging/tests/silence.rs",
        include_str!("../../../../packaging/tests/silence.rs"),
    ),
];

/// What stands directly above a function: its comment and its attributes. None where there is no such function.
fn above(source: &str, name: &str) -> Option<String> {
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    let head = format!("fn {name}(");
    let place =
        (lines.iter()).position(|line| line.trim_start_matches("async ").starts_with(&head))?;
    let above = lines[..place].iter().rev();
    let above = above.take_while(|line| line.starts_with("///") || line.starts_with("#["));
    Some(above.copied().collect::<Vec<_>>().join("\n"))
}

#[test]
fn every_attack_is_tried_by_a_test_that_names_it() {
    let mut seen = BTreeSet::new();
    let rows = TABLE.lines().skip_while(|line| !line.starts_with("| --- "));
    for row in rows.skip(1).take_while(|line| line.starts_with('|')) {
        let [name, _, tests]: [&str; 3] = (row.trim_matches('|').split(" | ").map(str::trim))
            .collect::<Vec<_>>()
            .try_into()
            .unwrap();
        assert!(seen.insert(name), "{name} stands there twice");
        for test in tests.split("`, `") {
            let (file, test) = test.trim_matches('`').split_once(": ").unwrap();
            let source = SOURCES.iter().find(|(path, _)| *path == file);
            let (_, source) = source.unwrap_or_else(|| panic!("{file} is not looked into"));
            let above = above(source, test).unwrap_or_else(|| panic!("{file} has no {test}"));
            // The tests that run over each store have their attribute from a macro.
            let runs = above.contains("test]") || source.contains(&format!("\n    {test},"));
            assert!(runs, "{test} is no test");
            let quoted = format!("\"{name}\"");
            assert!(
                above.contains(&quoted),
                "{test} does not say that it tries {quoted}"
            );
        }
    }
    assert_eq!(seen.len(), ROWS);
}
