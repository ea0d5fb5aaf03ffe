-- Key records at rest. Nothing here is a key: what is wrapped opens only under the root.

-- The root, at most one.
CREATE TABLE root (
    one          INTEGER PRIMARY KEY CHECK (one = 1),
    method       TEXT    NOT NULL CHECK (method = 'argon2id'),
    salt         BLOB    NOT NULL CHECK (length(salt) = 16),
    memory_kib   INTEGER NOT NULL,
    passes       INTEGER NOT NULL,
    lanes        INTEGER NOT NULL,
    wrapped      BLOB    NOT NULL,
    created      INTEGER NOT NULL
) STRICT;

-- Tenants' key-encrypting keys, wrapped by the root. New keys are wrapped by the highest version.
CREATE TABLE kek (
    tenant       TEXT    NOT NULL,
    version      INTEGER NOT NULL CHECK (version > 0),
    wrapped      BLOB    NOT NULL,
    created      INTEGER NOT NULL,
    PRIMARY KEY (tenant, version)
) STRICT, WITHOUT ROWID;

-- Content keys, wrapped by their tenant's KEK. A destroyed key keeps its row and loses what was wrapped.
CREATE TABLE content_key (
    key_id         BLOB    PRIMARY KEY CHECK (length(key_id) = 16),
    tenant         TEXT    NOT NULL,
    asset          TEXT    NOT NULL,
    label          TEXT    NOT NULL CHECK (label IN ('audio', 'sd', 'hd', 'uhd1', 'uhd2')),
    scheme         TEXT    NOT NULL CHECK (scheme IN ('cenc', 'cbcs')),
    subsample_rule INTEGER NOT NULL,
    sources        BLOB    NOT NULL CHECK (length(sources) = 32),
    number         INTEGER NOT NULL,
    iv             BLOB    NOT NULL CHECK (length(iv) = 16),
    kek_version    INTEGER NOT NULL,
    wrapped        BLOB,
    created        INTEGER NOT NULL,
    destroyed      INTEGER,
    CHECK ((wrapped IS NULL) = (destroyed IS NOT NULL)),
    FOREIGN KEY (tenant, kek_version) REFERENCES kek (tenant, version)
) STRICT, WITHOUT ROWID;

-- One key for each context, however many ask for it at once.
CREATE UNIQUE INDEX content_key_context
    ON content_key (tenant, asset, label, scheme, subsample_rule, sources, number)
    WHERE destroyed IS NULL;

CREATE INDEX content_key_asset ON content_key (asset, key_id);

-- The audit record up to which the log is known to have been whole, at most one.
CREATE TABLE audit_anchor (
    one          INTEGER PRIMARY KEY CHECK (one = 1),
    seq          INTEGER NOT NULL,
    hash         BLOB    NOT NULL CHECK (length(hash) = 32)
) STRICT;

PRAGMA user_version = 1;
