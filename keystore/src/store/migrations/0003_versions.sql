-- Versions of the root and of KEKs.

-- The root's, the same in each row: only the newest root is kept. Counted from 1.
ALTER TABLE root_seal ADD COLUMN version INTEGER NOT NULL DEFAULT 1 CHECK (version > 0);

-- The version of the root that wraps the KEK.
ALTER TABLE kek ADD COLUMN root_version INTEGER NOT NULL DEFAULT 1 CHECK (root_version > 0);

-- In a tenant's newest KEK: the lowest version that still opens keys. NULL in rows older than this column, which stand
-- for 1.
ALTER TABLE kek ADD COLUMN floor INTEGER CHECK (floor BETWEEN 1 AND version);

-- Finds what a rotation has left to wrap anew.
CREATE INDEX content_key_kek ON content_key (tenant, kek_version) WHERE destroyed IS NULL;

PRAGMA user_version = 3;
