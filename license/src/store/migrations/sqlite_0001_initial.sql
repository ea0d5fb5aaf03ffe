-- What the licence server remembers of viewers. Times are seconds since 1970-01-01T00:00:00Z.

-- Tokens that are good for one licence, and the request that had it.
CREATE TABLE used_token (
    token        BLOB    PRIMARY KEY CHECK (length(token) = 32),
    request      BLOB    NOT NULL CHECK (length(request) = 32),
    used         INTEGER NOT NULL,
    until        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX used_token_until ON used_token (until);

-- Devices on which viewers have played.
CREATE TABLE device (
    viewer       BLOB    NOT NULL CHECK (length(viewer) = 32),
    device       TEXT    NOT NULL,
    added        INTEGER NOT NULL,
    seen         INTEGER NOT NULL,
    until        INTEGER NOT NULL,
    PRIMARY KEY (viewer, device)
) STRICT, WITHOUT ROWID;

CREATE INDEX device_until ON device (until);

-- Leases: a viewer's streams. `leased` is when a lease ends, `until` when its place is free again.
CREATE TABLE stream (
    viewer       BLOB    NOT NULL CHECK (length(viewer) = 32),
    session      TEXT    NOT NULL,
    asset        TEXT    NOT NULL,
    began        INTEGER NOT NULL,
    leased       INTEGER NOT NULL,
    until        INTEGER NOT NULL,
    PRIMARY KEY (viewer, session)
) STRICT, WITHOUT ROWID;

CREATE INDEX stream_until ON stream (until);

-- What gets no licence any more. An empty issuer stands for every one.
CREATE TABLE revocation (
    kind         TEXT    NOT NULL CHECK (kind IN ('subject', 'token', 'key')),
    issuer       TEXT    NOT NULL,
    name         TEXT    NOT NULL,
    made         INTEGER NOT NULL,
    until        INTEGER NOT NULL,
    PRIMARY KEY (kind, issuer, name)
) STRICT, WITHOUT ROWID;

-- What is still to be told to whom it concerns.
CREATE TABLE event (
    id           TEXT    PRIMARY KEY,
    hook         TEXT    NOT NULL,
    body         TEXT    NOT NULL,
    made         INTEGER NOT NULL,
    due          INTEGER NOT NULL,
    attempts     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX event_due ON event (due);

PRAGMA user_version = 1;
