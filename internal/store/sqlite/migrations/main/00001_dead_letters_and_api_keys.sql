-- +goose Up

-- The oldest schema version a program must know to use this file: the newest row counts.
CREATE TABLE schema_compat (
    version        INTEGER PRIMARY KEY,
    min_compatible INTEGER NOT NULL
);
INSERT INTO schema_compat (version, min_compatible) VALUES (1, 1);

-- Times are Unix nanoseconds; 0 means none.
CREATE TABLE dead_letters (
    tenant_id       TEXT    NOT NULL,
    id              TEXT    NOT NULL,
    kind            TEXT    NOT NULL,
    reason          TEXT    NOT NULL,
    source          TEXT    NOT NULL,
    type            TEXT    NOT NULL,
    event_id        TEXT    NOT NULL,
    batch_id        TEXT    NOT NULL,
    received_ns     INTEGER NOT NULL,
    attempts        INTEGER NOT NULL,
    last_attempt_ns INTEGER NOT NULL,
    content_type    TEXT    NOT NULL,
    truncated       INTEGER NOT NULL,
    payload         BLOB    NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX dead_letters_by_time ON dead_letters (tenant_id, received_ns, id);
-- Serves the count by kind, and the removal of old letters.
CREATE INDEX dead_letters_by_kind ON dead_letters (kind);
CREATE INDEX dead_letters_by_age ON dead_letters (received_ns);

CREATE TABLE api_keys (
    id         TEXT    NOT NULL PRIMARY KEY,
    tenant_id  TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    scopes     TEXT    NOT NULL, -- JSON array of scope names
    hash       BLOB    NOT NULL, -- SHA-256 of the secret
    created_ns INTEGER NOT NULL,
    expires_ns INTEGER NOT NULL,
    revoked_ns INTEGER NOT NULL,
    created_by TEXT    NOT NULL
);
CREATE INDEX api_keys_by_tenant ON api_keys (tenant_id, created_ns, id);
