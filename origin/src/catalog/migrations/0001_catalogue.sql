-- A content of an asset: what one source identity stood for. The digest is NULL until it was read in full.
CREATE TABLE content (
    asset    TEXT    NOT NULL,
    identity BLOB    NOT NULL,
    number   INTEGER NOT NULL,
    digest   BLOB,
    PRIMARY KEY (asset, identity, number)
) STRICT, WITHOUT ROWID;

-- The stats under which a file was known to hold a content. Times are nanoseconds since 1970, in decimal.
CREATE TABLE sighting (
    asset    TEXT    NOT NULL,
    name     TEXT    NOT NULL,
    identity BLOB    NOT NULL,
    inode    INTEGER NOT NULL,
    length   INTEGER NOT NULL,
    modified TEXT    NOT NULL,
    changed  TEXT    NOT NULL,
    number   INTEGER NOT NULL,
    PRIMARY KEY (asset, name, identity, inode, length, modified, changed)
) STRICT, WITHOUT ROWID;

-- Revisions and media ids that a manifest has named.
CREATE TABLE published (
    asset TEXT NOT NULL,
    id    TEXT NOT NULL,
    PRIMARY KEY (asset, id)
) STRICT, WITHOUT ROWID;
