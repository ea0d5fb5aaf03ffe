//! Each `tests/rejects/NAME.toml` has faults, and `NAME.txt` is what is said of them: all, with key path, line and column.
//!
//! `CASTELLUM_UPDATE_GOLDEN=1 cargo test -p conf` writes the messages anew.

use std::path::Path;
use std::{env, fs};

#[test]
fn every_bad_file_is_refused_in_these_words() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rejects");
    let mut names: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .filter_map(|entry| {
            entry
                .unwrap()
                .file_name()
                .into_string()
                .unwrap()
                .strip_suffix(".toml")
                .map(str::to_owned)
        })
        .collect();
    names.sort();
    assert!(names.len() >= 20, "only {} bad files", names.len());
    let mut wrong = Vec::new();
    for name in &names {
        let text = fs::read_to_string(folder.join(format!("{name}.toml"))).unwrap();
        let said = match conf::parse(&format!("{name}.toml"), &text) {
            Ok(_) => panic!("{name}.toml was taken"),
            Err(faults) => format!("{faults}\n"),
        };
        let path = folder.join(format!("{name}.txt"));
        if env::var_os("CASTELLUM_UPDATE_GOLDEN").is_some() {
            fs::write(&path, &said).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        if said != expected {
            wrong.push(format!(
                "{name}: expected\n{expected}but it is said\n{said}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
