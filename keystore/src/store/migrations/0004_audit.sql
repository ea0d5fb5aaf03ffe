-- What the audit log is signed with, and what tells an old store from a new one.

-- The keys that sign the log's checkpoints and the tombstones, wrapped by the root.
CREATE TABLE signing_key (
    purpose      TEXT    PRIMARY KEY CHECK (purpose IN ('audit', 'tombstones')),
    public       BLOB    NOT NULL CHECK (length(public) = 32),
    root_version INTEGER NOT NULL CHECK (root_version > 0),
    wrapped      BLOB    NOT NULL,
    created      INTEGER NOT NULL
) STRICT;

-- How often key records were written to, which the log states, so that a store that was put back is known by it; and
-- how many of the tombstones were carried out.
CREATE TABLE marks (
    one          INTEGER PRIMARY KEY CHECK (one = 1),
    writes       INTEGER NOT NULL,
    tombstones   INTEGER NOT NULL
) STRICT;
INSERT INTO marks (one, writes, tombstones) VALUES (1, 0, 0);

-- Where the record ends, in bytes from the log's beginning; 0 in a row older than this column.
ALTER TABLE audit_anchor ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;

PRAGMA user_version = 4;
