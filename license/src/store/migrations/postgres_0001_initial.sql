-- What licence servers that share this database remember of viewers. Times are seconds since 1970-01-01T00:00:00Z.

-- Tokens that are good for one licence, and the request that had it.
CREATE TABLE used_token (
    token        BYTEA   PRIMARY KEY CHECK (length(token) = 32),
    request      BYTEA   NOT NULL CHECK (length(request) = 32),
    used         BIGINT  NOT NULL,
    until        BIGINT  NOT NULL
);

CREATE INDEX used_token_until ON used_token (until);

-- Devices on which viewers have played.
CREATE TABLE device (
    viewer       BYTEA   NOT NULL CHECK (length(viewer) = 32),
    device       TEXT    COLLATE "C" NOT NULL,
    added        BIGINT  NOT NULL,
    seen         BIGINT  NOT NULL,
    until        BIGINT  NOT NULL,
    PRIMARY KEY (viewer, device)
);

CREATE INDEX device_until ON device (until);

-- Leases: a viewer's streams. `leased` is when a lease ends, `until` when its place is free again. Written at every
-- renewal and worth little afterwards: not in the write-ahead log, so a crash of the database empties it.
CREATE UNLOGGED TABLE stream (
    viewer       BYTEA   NOT NULL CHECK (length(viewer) = 32),
    session      TEXT    COLLATE "C" NOT NULL,
    asset        TEXT    COLLATE "C" NOT NULL,
    began        BIGINT  NOT NULL,
    leased       BIGINT  NOT NULL,
    until        BIGINT  NOT NULL,
    PRIMARY KEY (viewer, session)
) WITH (fillfactor = 70);

-- What gets no licence any more. An empty issuer stands for every one.
CREATE TABLE revocation (
    kind         TEXT    NOT NULL CHECK (kind IN ('subject', 'token', 'key')),
    issuer       TEXT    COLLATE "C" NOT NULL,
    name         TEXT    COLLATE "C" NOT NULL,
    made         BIGINT  NOT NULL,
    until        BIGINT  NOT NULL,
    PRIMARY KEY (kind, issuer, name)
);

-- What is still to be told to whom it concerns.
CREATE TABLE event (
    id           TEXT    COLLATE "C" PRIMARY KEY,
    hook         TEXT    COLLATE "C" NOT NULL,
    body         TEXT    NOT NULL,
    made         BIGINT  NOT NULL,
    due          BIGINT  NOT NULL,
    attempts     BIGINT  NOT NULL
);

CREATE INDEX event_due ON event (due);
