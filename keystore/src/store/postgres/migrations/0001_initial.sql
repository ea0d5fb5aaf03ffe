-- Key records that several nodes share, and what each of them has of its own. Nothing here is a key: what is wrapped
-- opens only under the root. Numbers that count versions, seconds or bytes are those of `../../migrations`.

-- How often key records were written to, by whichever node, and how often anything was destroyed, a floor moved or the
-- root changed, which makes nodes look again. Whoever writes key records locks this row first: one writer at a time.
CREATE TABLE marks (
    one          BIGINT  PRIMARY KEY CHECK (one = 1),
    writes       BIGINT  NOT NULL,
    changes      BIGINT  NOT NULL
);
INSERT INTO marks (one, writes, changes) VALUES (1, 0, 0);

-- The newest root, once for each way in which it is kept.
CREATE TABLE root_seal (
    method       TEXT    COLLATE "C" PRIMARY KEY
                 CHECK (method IN ('argon2id', 'hkdf-sha256', 'pkcs11-aes-gcm', 'shamir-gf256', 'transit')),
    version      BIGINT  NOT NULL CHECK (version > 0),
    parameters   BYTEA   NOT NULL,
    wrapped      BYTEA   NOT NULL,
    commitment   BYTEA   CHECK (length(commitment) = 32),
    created      BIGINT  NOT NULL
);

-- A root wrapped by the one before it, until the nodes that had the one before in memory have taken it over.
CREATE TABLE handover (
    version      BIGINT  PRIMARY KEY CHECK (version > 1),
    wrapped      BYTEA   NOT NULL,
    made         TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- Tenants' key-encrypting keys, wrapped by the root. New keys are wrapped by the highest version.
CREATE TABLE kek (
    tenant       TEXT    COLLATE "C" NOT NULL,
    version      BIGINT  NOT NULL CHECK (version > 0),
    floor        BIGINT  CHECK (floor BETWEEN 1 AND version),
    root_version BIGINT  NOT NULL CHECK (root_version > 0),
    wrapped      BYTEA   NOT NULL,
    created      BIGINT  NOT NULL,
    PRIMARY KEY (tenant, version)
);

-- Content keys, wrapped by their tenant's KEK. A destroyed key keeps its row and loses what was wrapped.
CREATE TABLE content_key (
    key_id         BYTEA   PRIMARY KEY CHECK (length(key_id) = 16),
    tenant         TEXT    COLLATE "C" NOT NULL,
    asset          TEXT    COLLATE "C" NOT NULL,
    label          TEXT    NOT NULL CHECK (label IN ('audio', 'sd', 'hd', 'uhd1', 'uhd2')),
    scheme         TEXT    NOT NULL CHECK (scheme IN ('cenc', 'cbcs')),
    subsample_rule BIGINT  NOT NULL,
    sources        BYTEA   NOT NULL CHECK (length(sources) = 32),
    number         BIGINT  NOT NULL,
    iv             BYTEA   NOT NULL CHECK (length(iv) = 16),
    kek_version    BIGINT  NOT NULL,
    wrapped        BYTEA,
    created        BIGINT  NOT NULL,
    destroyed      BIGINT,
    CHECK ((wrapped IS NULL) = (destroyed IS NOT NULL)),
    FOREIGN KEY (tenant, kek_version) REFERENCES kek (tenant, version)
);

-- One key for each context, however many nodes ask for it at once.
CREATE UNIQUE INDEX content_key_context
    ON content_key (tenant, asset, label, scheme, subsample_rule, sources, number)
    WHERE destroyed IS NULL;

CREATE INDEX content_key_asset ON content_key (asset, key_id);

-- Finds what a rotation has left to wrap anew.
CREATE INDEX content_key_kek ON content_key (tenant, kek_version, key_id) WHERE destroyed IS NULL;

-- Other machines that get nothing any more, by certificate: the same name with a new one is another machine.
CREATE TABLE revoked_node (
    certificate  BYTEA   PRIMARY KEY CHECK (length(certificate) = 32),
    node         TEXT    NOT NULL,
    revoked      BIGINT  NOT NULL
);

-- The keystores that share this database, by the id in their state folder.
CREATE TABLE node (
    id           BYTEA   PRIMARY KEY CHECK (length(id) = 16),
    -- The record that the node's audit log must hold.
    seq          BIGINT,
    hash         BYTEA   CHECK (length(hash) = 32),
    bytes        BIGINT,
    -- How many of the node's tombstones were carried out.
    tombstones   BIGINT  NOT NULL DEFAULT 0,
    -- The root that it has in memory; NULL while sealed.
    root_version BIGINT,
    seen         TIMESTAMPTZ NOT NULL DEFAULT now(),
    CHECK ((seq IS NULL) = (hash IS NULL) AND (seq IS NULL) = (bytes IS NULL))
);

-- What each node signs its audit log's checkpoints and its tombstones with, wrapped by the root.
CREATE TABLE signing_key (
    node         BYTEA   NOT NULL REFERENCES node (id),
    purpose      TEXT    NOT NULL CHECK (purpose IN ('audit', 'tombstones')),
    public       BYTEA   NOT NULL CHECK (length(public) = 32),
    root_version BIGINT  NOT NULL CHECK (root_version > 0),
    wrapped      BYTEA   NOT NULL,
    created      BIGINT  NOT NULL,
    PRIMARY KEY (node, purpose)
);
