-- +goose Up

-- The oldest schema version a program must know to use this file: the newest row counts.
CREATE TABLE schema_compat (
    version        INTEGER PRIMARY KEY,
    min_compatible INTEGER NOT NULL
);
INSERT INTO schema_compat (version, min_compatible) VALUES (1, 1);

-- One row per event, in order of receipt. Times are Unix nanoseconds. The columns that
-- filters look at stand before the payload, which a scan then never reads.
CREATE TABLE events (
    seq          INTEGER PRIMARY KEY,
    received_ns  INTEGER NOT NULL,
    tenant_id    TEXT    NOT NULL,
    type         TEXT    NOT NULL,
    id           TEXT    NOT NULL,
    source       TEXT,             -- NULL when there is none
    timestamp_ns INTEGER NOT NULL,
    attributes   TEXT,             -- JSON object, NULL when there is none
    payload      TEXT    NOT NULL  -- JSON as received
);

-- The packed index of ids: slot = (seq >> 16) << 8 | first byte of the event's hash.
-- entries is a run of 18 bytes: the 16-byte hash and the low 16 bits of seq, little endian.
CREATE TABLE event_ids (
    slot    INTEGER PRIMARY KEY,
    entries BLOB NOT NULL
);

-- The sparse index of tenants and types: where in a chunk of 65,536 events they occur.
-- Bit n of blocks says that one is among the 1,024 events from chunk << 16 + n << 10.
-- The empty type stands for all types of the tenant.
CREATE TABLE presence (
    tenant_id TEXT    NOT NULL,
    type      TEXT    NOT NULL,
    chunk     INTEGER NOT NULL,
    blocks    INTEGER NOT NULL,
    first_ns  INTEGER NOT NULL,
    last_ns   INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, type, chunk)
) WITHOUT ROWID;

-- Times of receipt: events from seq on, up to the next row's, were received within the
-- second that begins at received_ns.
CREATE TABLE ticks (
    seq         INTEGER PRIMARY KEY,
    received_ns INTEGER NOT NULL
);

-- Events and payload bytes per minute of receipt (Unix minutes).
CREATE TABLE rollups (
    tenant_id TEXT    NOT NULL,
    minute    INTEGER NOT NULL,
    type      TEXT    NOT NULL,
    log_id    BLOB    NOT NULL,
    count     INTEGER NOT NULL,
    bytes     INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, minute, type, log_id)
) WITHOUT ROWID;

-- The first record of each log that is not in the store.
CREATE TABLE positions (
    log_id   BLOB    NOT NULL PRIMARY KEY,
    next_seq INTEGER NOT NULL
) WITHOUT ROWID;

-- The hashes of events that were appended in exact mode.
CREATE TABLE claims (
    hash BLOB NOT NULL PRIMARY KEY
) WITHOUT ROWID;

-- For people with a SQL prompt.
CREATE VIEW readable_events AS
SELECT seq,
       strftime('%Y-%m-%dT%H:%M:%fZ', received_ns / 1e9, 'unixepoch')  AS received_at,
       tenant_id, type, id, source,
       strftime('%Y-%m-%dT%H:%M:%fZ', timestamp_ns / 1e9, 'unixepoch') AS timestamp,
       attributes, payload
FROM events;
