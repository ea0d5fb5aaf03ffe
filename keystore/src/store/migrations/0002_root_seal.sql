-- The root may be kept in several ways at once, each wrapping the same root. Each way has parameters of its own; those of
-- argon2id are the salt, then memory in KiB, passes and lanes as big-endian numbers of 32 bits, as they were wrapped with.

CREATE TABLE root_seal (
    method       TEXT    PRIMARY KEY
                 CHECK (method IN ('argon2id', 'hkdf-sha256', 'pkcs11-aes-gcm', 'shamir-gf256', 'transit')),
    parameters   BLOB    NOT NULL,
    wrapped      BLOB    NOT NULL,
    -- Which root it is; none in rows of before.
    commitment   BLOB    CHECK (length(commitment) = 32),
    created      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO root_seal (method, parameters, wrapped, commitment, created)
    SELECT method, unhex(hex(salt) || printf('%08X%08X%08X', memory_kib, passes, lanes)), wrapped, NULL, created
    FROM root;

DROP TABLE root;

PRAGMA user_version = 2;
