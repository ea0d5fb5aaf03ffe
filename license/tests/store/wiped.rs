//! What is left on the disk of those who are no more remembered.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;

const EVENTS: u32 = 2000;
const SUBJECT: &str = "erika.mustermann@viewers.example";
const DEVICE: &str = "device-4c3b2a1908";

/// How often the text is in the files of the database.
fn found(folder: &Path, text: &str) -> usize {
    let files = fs::read_dir(folder).unwrap();
    let in_file = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        let windows = bytes.windows(text.len());
        windows.filter(|window| *window == text.as_bytes()).count()
    };
    files.map(|file| in_file(&file.unwrap().path())).sum()
}

fn event(number: u32) -> Event {
    // Ids that come in no order, and bodies of many lengths: rows move between pages.
    let digest = digest(&[&number.to_be_bytes()]);
    let id: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let filling = "x".repeat(usize::from(digest[0]) * 2);
    Event {
        id,
        hook: "crm".to_owned(),
        body: format!(r#"{{"subject":"{SUBJECT}","filling":"{filling}"}}"#),
        made: at(0),
        attempts: 0,
    }
}

/// Events that were told, a device that was forgotten: the sweep after that leaves nothing of them in any file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_whom_nothing_is_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let store = Sqlite::open(&folder.path().join(FILE_NAME), 10_000).unwrap();
    let with_device = Claim {
        device: device(DEVICE, 1),
        ..claim(at(0))
    };
    store.admit(with_device).await.unwrap();
    for number in 0..EVENTS {
        let post = Change::Post(vec![event(number)]);
        store.change(post).await.unwrap();
        if number % 3 == 0 {
            let told = Change::Told(event(number / 2).id);
            store.change(told).await.unwrap();
        }
    }
    sweep(&store, at(1), &[]).await.unwrap();
    assert!(found(folder.path(), SUBJECT) > 0, "it waits to be told");
    assert!(found(folder.path(), DEVICE) > 0, "it is remembered");
    for number in 0..EVENTS {
        let told = Change::Told(event(number).id);
        store.change(told).await.unwrap();
    }
    let forget = Change::Forget {
        viewer: ann(),
        device: Some(DEVICE.to_owned()),
    };
    assert_eq!(store.change(forget).await.unwrap(), 1);
    sweep(&store, at(2), &[]).await.unwrap();
    assert_eq!(found(folder.path(), SUBJECT), 0);
    assert_eq!(found(folder.path(), DEVICE), 0);
}

/// A backup reads for long: the sweep leaves the log to the next one and is not held up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_elsewhere_holds_up_no_sweep() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE_NAME);
    let store = Sqlite::open(&path, 10_000).unwrap();
    store.change(Change::Post(vec![event(0)])).await.unwrap();
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let mut elsewhere = sqlx::ConnectOptions::connect(&options).await.unwrap();
    let mut reading = sqlx::Connection::begin(&mut elsewhere).await.unwrap();
    let read = sqlx::query("SELECT id FROM event");
    assert_eq!(read.fetch_all(&mut *reading).await.unwrap().len(), 1);
    (store.change(Change::Told(event(0).id)).await).unwrap();
    // The read ends after it: a sweep that waited for that would never end.
    sweep(&store, at(1), &[]).await.unwrap();
    assert!(found(folder.path(), SUBJECT) > 0, "it still reads");
    reading.rollback().await.unwrap();
    sweep(&store, at(2), &[]).await.unwrap();
    assert_eq!(found(folder.path(), SUBJECT), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_their_owner_reads_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE_NAME);
    let modes = || {
        let files = fs::read_dir(folder.path()).unwrap();
        let mode = |file: fs::DirEntry| file.metadata().unwrap().permissions().mode() & 0o777;
        let modes: Vec<_> = files.map(|file| mode(file.unwrap())).collect();
        modes
    };
    let store = Sqlite::open(&path, 10).unwrap();
    store.change(Change::Post(vec![event(0)])).await.unwrap();
    assert_eq!(modes(), [0o600; 3], "the database, its log and the index");
    drop(store);
    // Files of an earlier version.
    fs::write(folder.path().join(format!("{FILE_NAME}-wal")), "").unwrap();
    for file in fs::read_dir(folder.path()).unwrap() {
        fs::set_permissions(file.unwrap().path(), Permissions::from_mode(0o644)).unwrap();
    }
    let store = Sqlite::open(&path, 10).unwrap();
    store.change(Change::Post(vec![event(1)])).await.unwrap();
    assert_eq!(modes(), [0o600; 3]);
}
