-- What the audit log is signed with, and what tells an old store from a new one.

-- The key that signs the log's checkpoints, wrapped by the root; at most one.
CREATE TABLE audit_key (
    one          INTEGER PRIMARY KEY CHECK (one = 1),
    public       BLOB    NOT NULL CHECK (length(public) = 32),
    root_version INTEGER NOT NULL CHECK (root_version > 0),
    wrapped      BLOB    NOT NULL,
    created      INTEGER NOT NULL
) STRICT;

-- How often key records were written to. The log states it, so that a store that was put back is known by it.
CREATE TABLE writes (
    one          INTEGER PRIMARY KEY CHECK (one = 1),
    count        INTEGER NOT NULL
) STRICT;
INSERT INTO writes (one, count) VALUES (1, 0);

-- Where the record ends, in bytes from the log's beginning; 0 in a row older than this column.
ALTER TABLE audit_anchor ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;

PRAGMA user_version = 3;
