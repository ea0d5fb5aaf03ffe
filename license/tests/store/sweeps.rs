//! What becomes of many rows that run out at once.

use std::collections::BTreeSet;

use conf::PostgresSettings;

use super::*;

const STREAMS: u64 = 6000;
const HOOKS: [&str; 2] = ["crm", "billing"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_tells_of_thousands_of_streams_that_run_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE_NAME);
    let store = Sqlite::open(&path, 10 * STREAMS).unwrap();
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let mut connection = sqlx::ConnectOptions::connect(&options).await.unwrap();
    let streams = sqlx::AssertSqlSafe(format!(
        "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {STREAMS}) \
         INSERT INTO stream (viewer, session, asset, began, leased, until, claim, told) \
         SELECT unhex(printf('%064x', n)), 'tv', 'film', 0, 0, {now}, n, CAST(n AS TEXT) FROM number",
        now = at(0).as_seconds()
    ));
    let done = sqlx::raw_sql(streams).execute(&mut connection).await;
    done.unwrap();
    sqlx::Connection::close(connection).await.unwrap();
    all_are_told_of(vec![Arc::new(store)]).await;
}

/// Each statement that writes events takes 2 ms, as over a network: one for each event, in one transaction, would take
/// longer than the database has to answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_tells_of_thousands_of_streams_that_run_out() {
    let Some(server) = postgres::server() else {
        return;
    };
    let database = server.database().await;
    let settings = PostgresSettings {
        timeout: Duration::from_secs(4),
        ..server.settings(&database)
    };
    let open = || Arc::new(Postgres::open(&settings, 10 * STREAMS).unwrap()) as Arc<dyn Store>;
    let nodes = vec![open(), open()];
    let streams = sqlx::AssertSqlSafe(format!(
        "INSERT INTO license.stream (viewer, session, asset, began, leased, until, claim, told) \
         SELECT decode(lpad(to_hex(n), 64, '0'), 'hex'), 'tv', 'film', 0, 0, {now}, n, CAST(n AS TEXT) \
         FROM generate_series(1, {STREAMS}) AS n; \
         CREATE FUNCTION license.far() RETURNS trigger LANGUAGE plpgsql \
         AS 'BEGIN PERFORM pg_sleep(0.002); RETURN NULL; END'; \
         CREATE TRIGGER far AFTER INSERT ON license.event \
         FOR EACH STATEMENT EXECUTE FUNCTION license.far()",
        now = at(0).as_seconds()
    ));
    let mut connection = server.connect(&database).await;
    let done = sqlx::raw_sql(streams).execute(&mut connection).await;
    done.unwrap();
    all_are_told_of(nodes).await;
}

/// All nodes sweep at once, while viewers ask for licences.
async fn all_are_told_of(nodes: Vec<Arc<dyn Store>>) {
    let hooks = HOOKS.map(str::to_owned);
    let mut sweeping = tokio::task::JoinSet::new();
    for node in nodes.clone() {
        let hooks = hooks.clone();
        sweeping.spawn(async move { sweep(&*node, at(0), &hooks).await.unwrap() });
    }
    let mut removed = 0;
    for number in 0_usize.. {
        let claim = Claim {
            viewer: Viewer::new("shop", &number.to_string()),
            stream: stream("tv", 1),
            ..claim(at(0))
        };
        let node = &nodes[number % nodes.len()];
        assert_eq!(node.admit(claim).await.unwrap().0, BEGUN);
        match sweeping.try_join_next() {
            Some(done) => removed += done.unwrap(),
            None if sweeping.is_empty() => break,
            None => {}
        }
    }
    assert_eq!(removed, STREAMS);
    for hook in HOOKS {
        let told = nodes[0].take_events(hook, at(0), NEVER, 100_000);
        let told = told.await.unwrap();
        assert_eq!(told.len() as u64, STREAMS);
        let different: BTreeSet<_> = told.into_iter().map(|event| event.body).collect();
        assert_eq!(different.len() as u64, STREAMS, "each once");
    }
}
