-- +goose Up

INSERT INTO schema_compat (version, min_compatible) VALUES (2, 2);

-- Times are Unix nanoseconds. events, event_batches and event_rollups have one
-- partition a UTC day of receipt, with the day at the end of its name, such as
-- events_20261122; they are made ahead, filled directly and dropped whole. There is
-- no default partition.

-- One row an event. The numbers stand first, so that no row is padded.
CREATE TABLE events (
    received_ns  BIGINT NOT NULL,
    seq          BIGINT NOT NULL, -- ascending in a log, unique among all
    id_key       BIGINT NOT NULL, -- of tenant and id: the first half of the event's hash
    timestamp_ns BIGINT NOT NULL,
    tenant_id    TEXT COLLATE "C" NOT NULL,
    type         TEXT COLLATE "C" NOT NULL,
    id           TEXT COLLATE "C" NOT NULL,
    source       TEXT COLLATE "C",         -- NULL when there is none
    attributes   TEXT COLLATE "C",         -- JSON object, NULL when there is none
    payload      TEXT COLLATE "C" NOT NULL -- JSON as received
) PARTITION BY RANGE (received_ns);
-- Rows of one receipt share an entry of this b-tree, so it stays small.
CREATE INDEX events_by_time ON events (tenant_id, received_ns);
-- Ids are found by 32 pages (256 KiB) that may have them. See MaintainEvents.
CREATE INDEX events_brin ON events USING brin
    (received_ns, id_key int8_bloom_ops (n_distinct_per_range = 2048, false_positive_rate = 0.01)) WITH (pages_per_range = 32);
-- +goose StatementBegin
DO $$
BEGIN
    ALTER TABLE events ALTER COLUMN payload SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported OR invalid_parameter_value THEN
    NULL; -- a server built without it compresses long payloads its own way
END $$;
-- +goose StatementEnd

-- One row for each transaction that brought events, in the order of their commits.
-- A tail reads it. hashes has the 16-byte hashes of the events by their seq, and
-- ticks their times of receipt as runs: a signed varint for how much later than the
-- run before (the first: than first_ns), and an unsigned one for how many.
CREATE TABLE event_batches (
    tenant_id TEXT COLLATE "C" NOT NULL DEFAULT '',
    n         BIGINT NOT NULL,
    log_id    UUID NOT NULL,
    first_seq BIGINT NOT NULL,
    last_seq  BIGINT NOT NULL,
    first_ns  BIGINT NOT NULL, -- the oldest receipt
    last_ns   BIGINT NOT NULL, -- the newest
    hashes    BYTEA NOT NULL,
    ticks     BYTEA NOT NULL,
    PRIMARY KEY (tenant_id, n, first_ns)
) PARTITION BY RANGE (first_ns);
CREATE INDEX event_batches_by_time ON event_batches (tenant_id, last_ns);
ALTER TABLE event_batches ALTER COLUMN hashes SET STORAGE EXTERNAL;

-- Each batch takes a block of 2^20 numbers for its rows.
CREATE SEQUENCE event_seq AS BIGINT INCREMENT BY 1048576 MINVALUE 1048576 START WITH 1048576;
CREATE SEQUENCE event_batch_order AS BIGINT;

-- The number of a batch among the commits. Who has taken one holds the lock until
-- its transaction ends, so numbers become visible in their order: whoever has seen
-- one will never see a smaller one appear. It is asked for last.
-- +goose StatementBegin
CREATE FUNCTION event_batch_number() RETURNS BIGINT LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(7883951835720016743); -- "millrace" + 2
    RETURN nextval('event_batch_order');
END $$;
-- +goose StatementEnd

-- Events and payload bytes per minute of receipt (Unix minutes). Events without an
-- amount of money have the empty currency. amount is in minor units and stops at
-- the bounds of 64 bits. Bit n of seconds says that one was received in second n.
CREATE TABLE event_rollups (
    tenant_id TEXT COLLATE "C" NOT NULL,
    minute    BIGINT NOT NULL,
    type      TEXT COLLATE "C" NOT NULL,
    currency  TEXT COLLATE "C" NOT NULL,
    log_id    UUID NOT NULL,
    count     BIGINT NOT NULL,
    bytes     BIGINT NOT NULL,
    amount    BIGINT NOT NULL,
    seconds   BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, minute, type, currency, log_id)
) PARTITION BY RANGE (minute);
CREATE INDEX event_rollups_by_type ON event_rollups (tenant_id, type, minute);

-- The first record of each log that is not in the store, and the day (since the Unix
-- epoch) of the last batch.
CREATE TABLE event_positions (
    tenant_id TEXT COLLATE "C" NOT NULL DEFAULT '',
    log_id    UUID NOT NULL,
    next_seq  BIGINT NOT NULL,
    last_day  BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, log_id)
) WITH (fillfactor = 50);

-- The hashes of events that were appended in exact mode, and of those that Millrace
-- itself made; they stand apart, so that no event from outside can take the place of
-- one of ours. Days are counted from the Unix epoch.
CREATE TABLE event_claims (
    tenant_id TEXT COLLATE "C" NOT NULL,
    hash      UUID NOT NULL,
    day       BIGINT NOT NULL, -- of receipt
    until_day BIGINT NOT NULL, -- the last day that it is asked for
    PRIMARY KEY (tenant_id, hash)
);
CREATE INDEX event_claims_by_age ON event_claims USING brin (until_day);
CREATE TABLE event_own_claims (
    tenant_id TEXT COLLATE "C" NOT NULL,
    hash      UUID NOT NULL,
    day       BIGINT NOT NULL,
    until_day BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, hash)
);
CREATE INDEX event_own_claims_by_age ON event_own_claims USING brin (until_day);
