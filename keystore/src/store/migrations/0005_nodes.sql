-- Other machines that get nothing any more.

-- By certificate: the same name with a new one is another machine.
CREATE TABLE revoked_node (
    certificate  BLOB    PRIMARY KEY CHECK (length(certificate) = 32),
    node         TEXT    NOT NULL,
    revoked      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

PRAGMA user_version = 5;
