//! The house is built as drawn: every package, its dependencies on others of ours and its lints, against the table in
//! `packaging/README.md`.
//!
//! Cannot catch what modules of one package do to each other.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Packages that hold unsafe code, each in modules that say so; every other crate root forbids it.
const MAY_BE_UNSAFE: [&str; 4] = ["keystore", "origin", "origin-cipher", "origin-front"];

/// A file that is longer has a second noun in it.
const MAX_LINES: usize = 800;

struct Row {
    folder: String,
    may_depend_on: BTreeSet<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// The rows of the table under `## Packages`, by package.
fn table() -> BTreeMap<String, Row> {
    let readme = fs::read_to_string(root().join("packaging/README.md")).unwrap();
    let (_, section) = readme.split_once("\n## Packages\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    let table: BTreeMap<_, _> = rows
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [folder, package, _, may] = cells[..] else {
                panic!("{line}")
            };
            let may_depend_on = may
                .split(',')
                .map(str::trim)
                .filter(|name| *name != "-")
                .map(str::to_owned)
                .collect();
            (
                package.to_owned(),
                Row {
                    folder: folder.to_owned(),
                    may_depend_on,
                },
            )
        })
        .collect();
    assert!(table.len() > 5, "the table was not found");
    table
}

fn manifest(folder: &str) -> toml::Table {
    fs::read_to_string(root().join(folder).join("Cargo.toml"))
        .unwrap()
        .parse()
        .unwrap()
}

/// The names of all dependencies, those for tests and build scripts included or not.
fn dependencies(manifest: &toml::Table, with_tests: bool) -> BTreeSet<String> {
    let mut kinds = vec!["dependencies"];
    if with_tests {
        kinds.extend(["dev-dependencies", "build-dependencies"]);
    }
    kinds
        .into_iter()
        .filter_map(|kind| manifest.get(kind)?.as_table())
        .flat_map(|table| table.keys().cloned())
        .collect()
}

#[test]
fn the_table_lists_the_members() {
    let workspace = manifest(".");
    let members = workspace["workspace"]["members"].as_array().unwrap();
    let members: BTreeSet<&str> = members
        .iter()
        .map(|member| member.as_str().unwrap())
        .collect();
    let table = table();
    let folders: BTreeSet<&str> = table.values().map(|row| row.folder.as_str()).collect();
    assert_eq!(members, folders);
    for (package, row) in &table {
        assert_eq!(
            manifest(&row.folder)["package"]["name"].as_str(),
            Some(package.as_str())
        );
    }
}

#[test]
fn packages_depend_on_what_the_table_allows() {
    let table = table();
    for (package, row) in &table {
        let ours: BTreeSet<String> = dependencies(&manifest(&row.folder), false)
            .into_iter()
            .filter(|name| table.contains_key(name))
            .collect();
        let unlisted: Vec<_> = ours.difference(&row.may_depend_on).collect();
        assert!(unlisted.is_empty(), "{package} depends on {unlisted:?}");
    }
}

/// What a pure package cannot do without asking is mostly what it cannot link.
#[test]
fn pure_packages_link_nothing_that_does_io() {
    let impure = [
        "axum",
        "hyper",
        "libc",
        "memmap2",
        "metrics",
        "quinn",
        "rustix",
        "socket2",
        "sqlx",
        "tokio",
        "tokio-uring",
        "tracing",
    ];
    for folder in [
        "keystore/cpix",
        "keystore/types",
        "loadtest/reader",
        "origin/cipher",
        "origin/media",
    ] {
        let dependencies = dependencies(&manifest(folder), false);
        for name in impure {
            assert!(!dependencies.contains(name), "{folder} depends on {name}");
        }
    }
}

#[test]
fn lints_are_those_of_the_workspace() {
    for row in table().values() {
        let manifest = manifest(&row.folder);
        let lints = manifest
            .get("lints")
            .and_then(|lints| lints.get("workspace"));
        assert_eq!(
            lints.and_then(toml::Value::as_bool),
            Some(true),
            "{}",
            row.folder
        );
    }
}

/// Versions are stated once, in the workspace.
#[test]
fn versions_stand_in_the_workspace() {
    for row in table().values() {
        let manifest = manifest(&row.folder);
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(table) = manifest.get(kind).and_then(toml::Value::as_table) else {
                continue;
            };
            for (name, value) in table {
                let shared = value.get("workspace").and_then(toml::Value::as_bool);
                assert_eq!(shared, Some(true), "{}: {name}", row.folder);
            }
        }
    }
}

#[test]
fn crate_roots_forbid_unsafe_code() {
    for (package, row) in table() {
        let folder = root().join(&row.folder).join("src");
        let roots = ["lib.rs", "main.rs"].map(|file| folder.join(file));
        for path in roots.iter().filter(|path| path.exists()) {
            let text = fs::read_to_string(path).unwrap();
            if MAY_BE_UNSAFE.contains(&package.as_str()) {
                // The workspace denies it; one module each expects it, with its reason.
                assert!(!text.contains("allow(unsafe_code"), "{}", path.display());
            } else {
                assert!(
                    text.contains("#![forbid(unsafe_code)]"),
                    "{}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn a_file_has_one_noun() {
    let vague = [
        "utils", "util", "common", "helpers", "helper", "manager", "misc",
    ];
    for path in sources() {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= MAX_LINES, "{} has {lines} lines", path.display());
        let stem = path.file_stem().unwrap().to_str().unwrap();
        assert!(!vague.contains(&stem), "{} says nothing", path.display());
    }
}

/// Every Rust file of every package.
fn sources() -> Vec<PathBuf> {
    let mut sources = Vec::new();
    for row in table().values() {
        for part in ["src", "tests", "benches"] {
            collect(&root().join(&row.folder).join(part), &mut sources);
        }
    }
    assert!(sources.len() > 50);
    sources
}

fn collect(folder: &Path, sources: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() && !path.ends_with("node_modules") {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(path);
        }
    }
}
