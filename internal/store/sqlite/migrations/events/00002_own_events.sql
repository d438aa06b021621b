-- +goose Up

-- An older program may use the file: it makes no events of its own, and merely shows
-- statistics without money.
INSERT INTO schema_compat (version, min_compatible) VALUES (2, 1);

-- The hashes of events that Millrace itself made, which are exact in every mode. They
-- stand apart from claims, so that no event from outside can take the place of one.
CREATE TABLE own_claims (
    hash BLOB NOT NULL PRIMARY KEY
) WITHOUT ROWID;

-- Events with a currency, per minute of receipt (Unix minutes); all others are in
-- rollups. amount is in minor units and stops at the bounds of 64 bits.
CREATE TABLE money_rollups (
    tenant_id TEXT    NOT NULL,
    minute    INTEGER NOT NULL,
    type      TEXT    NOT NULL,
    currency  TEXT    NOT NULL,
    log_id    BLOB    NOT NULL,
    count     INTEGER NOT NULL,
    bytes     INTEGER NOT NULL,
    amount    INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, minute, type, currency, log_id)
) WITHOUT ROWID;
