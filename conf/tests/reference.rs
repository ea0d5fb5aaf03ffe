//! `README.md` and `castellum.toml` against `src/document.rs` and the files beneath it: every key is documented, every documented default is
//! the one in force, and the installed file says the same.
//!
//! Cannot catch a doc comment that describes a key wrongly in words.
//!
//! `CASTELLUM_UPDATE_GOLDEN=1 cargo test -p conf` writes `README.md` anew.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use conf::Document;

/// The files that say what is written.
fn documents() -> Vec<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let beneath = fs::read_dir(source.join("document")).unwrap();
    let mut files: Vec<_> = beneath.map(|entry| entry.unwrap().path()).collect();
    files.push(source.join("document.rs"));
    let text = |path| fs::read_to_string(path).unwrap();
    files.into_iter().map(text).collect()
}

/// One field of a struct of these.
struct Key {
    name: String,
    ty: String,
    doc: String,
}

/// The structs of all files, by name. They are written plainly enough to be read by the line.
fn structs() -> BTreeMap<String, Vec<Key>> {
    documents()
        .iter()
        .flat_map(|text| structs_in(text))
        .collect()
}

fn structs_in(text: &str) -> Vec<(String, Vec<Key>)> {
    let mut structs: Vec<(String, Vec<Key>)> = Vec::new();
    let mut doc = String::new();
    for line in text.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("/// ") {
            doc = if doc.is_empty() {
                text.to_owned()
            } else {
                format!("{doc} {text}")
            };
        } else if let Some(rest) = line.strip_prefix("pub struct ") {
            structs.push((rest.trim_end_matches(" {").to_owned(), Vec::new()));
            doc.clear();
        } else if let Some((name, ty)) = line
            .strip_prefix("pub ")
            .and_then(|rest| rest.split_once(": "))
        {
            let (_, keys) = structs.last_mut().unwrap();
            keys.push(Key {
                name: name.to_owned(),
                ty: ty.trim_end_matches(',').to_owned(),
                doc: std::mem::take(&mut doc),
            });
        } else if line.starts_with("impl ") {
            break;
        }
    }
    structs
}

/// Walks the tables as the file has them: a table's own keys, then the tables below it.
fn walk(visit: &mut dyn FnMut(&str, &str, &[&Key])) {
    walk_table(&structs(), "Document", "", "The top of the file.", visit);
}

fn walk_table(
    structs: &BTreeMap<String, Vec<Key>>,
    ty: &str,
    path: &str,
    doc: &str,
    visit: &mut dyn FnMut(&str, &str, &[&Key]),
) {
    let below = |key: &Key| {
        let (ty, suffix) = match key.ty.as_str() {
            map if map.starts_with("BTreeMap<String, ") => (
                map.trim_start_matches("BTreeMap<String, ")
                    .trim_end_matches('>'),
                ".NAME",
            ),
            list if list.starts_with("Vec<") => {
                (list.trim_start_matches("Vec<").trim_end_matches('>'), "[]")
            }
            ty => (ty, ""),
        };
        structs.contains_key(ty).then(|| (ty.to_owned(), suffix))
    };
    let keys = &structs[ty];
    let own: Vec<&Key> = keys.iter().filter(|key| below(key).is_none()).collect();
    visit(path, doc, &own);
    for key in keys {
        if let Some((ty, suffix)) = below(key) {
            let dot = if path.is_empty() { "" } else { "." };
            walk_table(
                structs,
                &ty,
                &format!("{path}{dot}{}{suffix}", key.name),
                &key.doc,
                visit,
            );
        }
    }
}

/// The text of a doc comment and the TOML of its default, where it states one.
fn split_default(doc: &str) -> (&str, Option<&str>) {
    match doc.rsplit_once(" Default `") {
        Some((text, default)) => (text, Some(default.trim_end_matches("`."))),
        None => (doc, None),
    }
}

fn render() -> String {
    let mut out = String::from(
        "# Configuration\n\n\
         Rendered from the comments in `src/document.rs` and beneath it; `CASTELLUM_UPDATE_GOLDEN=1 cargo test -p conf` writes it anew.\n\n\
         One TOML file: the one that `-c FILE` or the variable `CASTELLUM_CONFIG` names, else `/etc/castellum/castellum.toml` if it\n\
         exists, else built-in defaults. `castellum.toml` here is what the packages install there, and also the built-in one.\n\
         A variable overrides a key: `CASTELLUM__ORIGIN__TLS__LISTEN` is `origin.tls.listen`. Unknown keys are faults, and all\n\
         faults are reported at once. Spans of time are written `250ms`, `4s`, `10m`, `24h`; sizes `16KiB`, `64MiB`, `1GiB`.\n\
         Secrets are named by file or by systemd credential; none stands in the file.\n\n\
         An admin listener answers `/livez`, `/readyz` (with `?verbose`, part by part), `/startupz` and `/metrics`.\n",
    );
    walk(&mut |path, doc, keys| {
        let (doc, _) = split_default(doc);
        if path.is_empty() {
            writeln!(out, "\n## Top\n\n{doc}\n").unwrap();
        } else {
            let header = match path.strip_suffix("[]") {
                Some(path) => format!("[[{path}]]"),
                None => format!("[{path}]"),
            };
            writeln!(out, "\n## `{header}`\n\n{doc}").unwrap();
            if !keys.is_empty() {
                out.push('\n');
            }
        }
        if !keys.is_empty() {
            out.push_str("| key | default | meaning |\n| --- | --- | --- |\n");
        }
        for key in keys {
            let (text, default) = split_default(&key.doc);
            let default = default.map_or_else(String::new, |default| format!("`{default}`"));
            writeln!(out, "| `{}` | {default} | {text} |", key.name).unwrap();
        }
    });
    out
}

#[test]
fn readme_is_rendered_from_the_comments() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let rendered = render();
    if env::var_os("CASTELLUM_UPDATE_GOLDEN").is_some() {
        fs::write(&path, &rendered).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == rendered,
        "conf/README.md is stale: CASTELLUM_UPDATE_GOLDEN=1 cargo test -p conf"
    );
}

#[test]
fn documented_defaults_are_in_force() {
    let defaults = toml::Value::try_from(Document::default()).unwrap();
    let mut compared = 0;
    walk(&mut |path, _, keys| {
        if path.contains(".NAME") || path.contains("[]") {
            return;
        }
        let table = path
            .split('.')
            .filter(|name| !name.is_empty())
            .try_fold(&defaults, |table, name| table.get(name))
            .unwrap_or_else(|| panic!("no default table {path}"));
        for key in keys {
            let written = split_default(&key.doc).1.map(|text| {
                let text = format!("it = {text}");
                text.parse::<toml::Table>()
                    .unwrap_or_else(|e| panic!("{path}.{}: {e}", key.name))["it"]
                    .clone()
            });
            assert_eq!(
                written.as_ref(),
                table.get(&key.name),
                "{path}.{}",
                key.name
            );
            compared += 1;
        }
    });
    assert!(
        compared > 40,
        "only {compared} keys were found in document.rs"
    );
}

#[test]
fn the_installed_file_says_the_defaults() {
    let installed: Document = toml::from_str(conf::DEFAULT).unwrap();
    assert_eq!(installed, Document::default());
}

/// Lines that are commented out are keys too, once the mark is taken away.
#[test]
fn the_installed_file_shows_every_key() {
    let uncommented: Vec<&str> = conf::DEFAULT
        .lines()
        .map(|line| line.strip_prefix("# ").unwrap_or(line))
        .collect();
    walk(&mut |path, _, keys| {
        let last = path.trim_end_matches("[]").trim_end_matches(".NAME");
        let opens = |line: &str| {
            let name = line
                .trim_start_matches('[')
                .split(']')
                .next()
                .unwrap_or_default();
            let parent = name.rsplit_once('.').map_or("", |(parent, _)| parent);
            line.starts_with('[') && (name == last || path.ends_with(".NAME") && parent == last)
        };
        for key in keys {
            let mut inside = path.is_empty();
            let shown = uncommented.iter().any(|line| {
                if line.starts_with('[') {
                    inside = opens(line);
                }
                inside && line.starts_with(&format!("{} = ", key.name))
            });
            // `[[license.issuers]]` stands for the key itself.
            let as_table = uncommented
                .iter()
                .any(|line| line.starts_with(&format!("[[{path}.{}]]", key.name)));
            assert!(
                shown || as_table,
                "castellum.toml does not show {path}.{}",
                key.name
            );
        }
    });
}

#[test]
fn everything_is_documented() {
    for (name, keys) in structs() {
        for key in keys {
            assert!(key.doc.ends_with('.'), "{name}.{}: {:?}", key.name, key.doc);
        }
    }
}
