-- +goose Up

-- The oldest schema version a program must know to use this file: the newest row counts.
-- tenant_id is empty here and wherever a row is of no tenant: every key leads with
-- it, so that the schema can be distributed by tenant.
CREATE TABLE schema_compat (
    tenant_id      TEXT COLLATE "C" NOT NULL DEFAULT '',
    version        BIGINT NOT NULL,
    min_compatible BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, version)
);
INSERT INTO schema_compat (version, min_compatible) VALUES (1, 1);

-- Times are Unix nanoseconds; 0 means none.
CREATE TABLE dead_letters (
    tenant_id       TEXT COLLATE "C" NOT NULL,
    id              TEXT COLLATE "C" NOT NULL,
    kind            TEXT COLLATE "C" NOT NULL,
    reason          TEXT COLLATE "C" NOT NULL,
    source          TEXT COLLATE "C" NOT NULL,
    type            TEXT COLLATE "C" NOT NULL,
    event_id        TEXT COLLATE "C" NOT NULL,
    batch_id        TEXT COLLATE "C" NOT NULL,
    received_ns     BIGINT NOT NULL,
    attempts        BIGINT NOT NULL,
    last_attempt_ns BIGINT NOT NULL,
    content_type    TEXT COLLATE "C" NOT NULL,
    truncated       BIGINT NOT NULL,
    payload         BYTEA NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX dead_letters_by_time ON dead_letters (tenant_id, received_ns, id);
-- Serves the count by kind, and the removal of old letters.
CREATE INDEX dead_letters_by_kind ON dead_letters (kind);
CREATE INDEX dead_letters_by_age ON dead_letters (received_ns);

CREATE TABLE api_keys (
    id         TEXT COLLATE "C" NOT NULL,
    tenant_id  TEXT COLLATE "C" NOT NULL,
    name       TEXT COLLATE "C" NOT NULL,
    scopes     TEXT COLLATE "C" NOT NULL, -- JSON array of scope names
    hash       BYTEA NOT NULL, -- SHA-256 of the secret
    created_ns BIGINT NOT NULL,
    expires_ns BIGINT NOT NULL,
    revoked_ns BIGINT NOT NULL,
    created_by TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
-- A credential names its key, not its tenant. An id is a UUID.
CREATE INDEX api_keys_by_id ON api_keys (id);
CREATE INDEX api_keys_by_tenant ON api_keys (tenant_id, created_ns, id);


-- Times are Unix nanoseconds, 0 means none. Money is in minor units.

CREATE TABLE products (
    tenant_id    TEXT COLLATE "C" NOT NULL,
    sku          TEXT COLLATE "C" NOT NULL,
    version      BIGINT NOT NULL,
    active       BIGINT NOT NULL,
    amount       BIGINT NOT NULL CHECK (amount >= 0),
    currency     TEXT COLLATE "C" NOT NULL,
    category     TEXT COLLATE "C" NOT NULL,
    names        TEXT COLLATE "C" NOT NULL, -- JSON object by language
    descriptions TEXT COLLATE "C" NOT NULL, -- JSON object by language
    attributes   TEXT COLLATE "C" NOT NULL, -- JSON object, '' if there is none
    created_ns   BIGINT NOT NULL,
    updated_ns   BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, sku)
);
-- The tenant does not come first in an index that stands beside a primary key which
-- begins with it: before the table has been analyzed, the planner takes the two for
-- equally good ways to one row, and may read all of a tenant's through this one.
CREATE INDEX products_by_category ON products (category, tenant_id, sku);

CREATE TABLE product_prices (
    tenant_id       TEXT COLLATE "C" NOT NULL,
    sku             TEXT COLLATE "C" NOT NULL,
    product_version BIGINT NOT NULL,
    amount          BIGINT NOT NULL,
    currency        TEXT COLLATE "C" NOT NULL,
    from_ns         BIGINT NOT NULL,
    changed_by      TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant_id, sku, product_version)
);

-- The checks are the last line of defence: nothing is ever oversold.
CREATE TABLE stock (
    tenant_id  TEXT COLLATE "C" NOT NULL,
    sku        TEXT COLLATE "C" NOT NULL,
    on_hand    BIGINT NOT NULL CHECK (on_hand >= 0),
    reserved   BIGINT NOT NULL CHECK (reserved >= 0),
    version    BIGINT NOT NULL,
    updated_ns BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, sku),
    CHECK (reserved <= on_hand)
);

CREATE TABLE stock_import_lines (
    tenant_id  TEXT COLLATE "C" NOT NULL,
    import_id  TEXT COLLATE "C" NOT NULL,
    line       BIGINT NOT NULL,
    content    TEXT COLLATE "C" NOT NULL, -- what the line said, to tell it from another under its number
    applied_ns BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, import_id, line)
);

-- What a caller's Idempotency-Key stands for. scope says which kind of request it
-- was used for: order, refund, stock.
CREATE TABLE idempotency_keys (
    tenant_id   TEXT COLLATE "C" NOT NULL,
    scope       TEXT COLLATE "C" NOT NULL,
    subject     TEXT COLLATE "C" NOT NULL,
    key         TEXT COLLATE "C" NOT NULL,
    fingerprint BYTEA NOT NULL, -- SHA-256 of the decoded request
    object_id   TEXT COLLATE "C" NOT NULL, -- what the request made or changed
    answer      TEXT COLLATE "C" NOT NULL, -- what cannot be told from the object, '' if all can
    created_ns  BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, scope, subject, key)
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_ns);

CREATE TABLE orders (
    tenant_id       TEXT COLLATE "C" NOT NULL,
    id              TEXT COLLATE "C" NOT NULL, -- UUIDv7: in the order of placement
    customer_id     TEXT COLLATE "C" NOT NULL,
    status          TEXT COLLATE "C" NOT NULL,
    version         BIGINT NOT NULL,
    currency        TEXT COLLATE "C" NOT NULL,
    total           BIGINT NOT NULL CHECK (total > 0),
    captured        BIGINT NOT NULL CHECK (captured >= 0 AND captured <= total),
    refunded        BIGINT NOT NULL CHECK (refunded >= 0 AND refunded <= captured),
    lines           TEXT COLLATE "C" NOT NULL, -- JSON array
    details         TEXT COLLATE "C" NOT NULL, -- JSON object: what never changes (contact, address, note, payment token)
    progress        TEXT COLLATE "C" NOT NULL, -- JSON object: what the transitions change besides the columns
    placed_ns       BIGINT NOT NULL,
    updated_ns      BIGINT NOT NULL,
    deadline_ns     BIGINT NOT NULL,
    attempts        BIGINT NOT NULL,
    next_attempt_ns BIGINT NOT NULL, -- 0: nothing to do by itself
    parked_ns       BIGINT NOT NULL, -- not 0: left alone until it is redriven
    last_error      TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
-- The tenant comes second for the reason given at products_by_category.
CREATE INDEX orders_by_customer ON orders (customer_id, tenant_id, id);
CREATE INDEX orders_by_status ON orders (status, tenant_id, id);
-- Two, so that what is only waiting for its completion, which may be very much, is
-- not in the way of what is being worked on.
CREATE INDEX orders_due ON orders (next_attempt_ns) WHERE next_attempt_ns > 0 AND parked_ns = 0 AND status <> 'shipped';
CREATE INDEX orders_due_shipped ON orders (next_attempt_ns) WHERE next_attempt_ns > 0 AND parked_ns = 0 AND status = 'shipped';

CREATE TABLE order_history (
    tenant_id   TEXT COLLATE "C" NOT NULL,
    order_id    TEXT COLLATE "C" NOT NULL,
    version     BIGINT NOT NULL, -- of the order after the transition
    at_ns       BIGINT NOT NULL,
    event       TEXT COLLATE "C" NOT NULL,
    from_status TEXT COLLATE "C" NOT NULL,
    to_status   TEXT COLLATE "C" NOT NULL,
    actor       TEXT COLLATE "C" NOT NULL,
    reason      TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant_id, order_id, version)
);

-- owner is the instance that wrote the row and hands it over; the rows of one that
-- is gone are given to another. A seq is given out once for all lanes and tenants;
-- no constraint says so, which would cost every order two more entries of an index.
CREATE TABLE outbox (
    lane      TEXT COLLATE "C" NOT NULL,
    seq       BIGINT NOT NULL,
    tenant_id TEXT COLLATE "C" NOT NULL,
    subject   TEXT COLLATE "C" NOT NULL,
    id        TEXT COLLATE "C" NOT NULL,
    at_ns     BIGINT NOT NULL,
    trace     TEXT COLLATE "C" NOT NULL,
    data      BYTEA NOT NULL,
    owner     TEXT COLLATE "C" NOT NULL
);
CREATE INDEX outbox_by_owner ON outbox (lane, owner, seq);
-- Numbers blocks of sequences: an instance takes one at a time.
CREATE SEQUENCE outbox_blocks;

-- What every order changes several times. A new version of a row finds room on its
-- page; rows of stock are few and some are changed hundreds of times a second. What
-- is dead is removed before there is much of it: the sum of dead rows is a matter of
-- seconds here, whatever the size of the table, except where all indexes of a large
-- one have to be read for it.
ALTER TABLE stock SET (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE orders SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE outbox SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_vacuum_insert_threshold = -1);

CREATE TABLE webhook_endpoints (
    tenant_id       TEXT COLLATE "C" NOT NULL,
    id              TEXT COLLATE "C" NOT NULL,
    url             TEXT COLLATE "C" NOT NULL,
    events          TEXT COLLATE "C" NOT NULL, -- JSON array of event types
    secrets         TEXT COLLATE "C" NOT NULL, -- JSON array of {key, expiresNs}, the current one first
    version         BIGINT NOT NULL,
    created_ns      BIGINT NOT NULL,
    updated_ns      BIGINT NOT NULL,
    disabled_ns     BIGINT NOT NULL,
    disabled_reason TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant_id, id)
);

CREATE TABLE webhook_deliveries (
    tenant_id       TEXT COLLATE "C" NOT NULL,
    id              TEXT COLLATE "C" NOT NULL,
    endpoint_id     TEXT COLLATE "C" NOT NULL,
    event_type      TEXT COLLATE "C" NOT NULL,
    object_id       TEXT COLLATE "C" NOT NULL, -- the order it speaks of
    payload         TEXT COLLATE "C" NOT NULL,
    created_ns      BIGINT NOT NULL,
    attempts        BIGINT NOT NULL,
    next_attempt_ns BIGINT NOT NULL, -- 0: settled
    delivered_ns    BIGINT NOT NULL,
    last_status     BIGINT NOT NULL,
    last_error      TEXT COLLATE "C" NOT NULL,
    trace           TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
-- By endpoint first: a backlog of one endpoint is never in the way of another's.
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (tenant_id, endpoint_id, next_attempt_ns) WHERE next_attempt_ns > 0;
CREATE INDEX webhook_deliveries_by_endpoint ON webhook_deliveries (tenant_id, endpoint_id, id);
CREATE INDEX webhook_deliveries_settled ON webhook_deliveries (created_ns) WHERE next_attempt_ns = 0;

CREATE TABLE audit_log (
    tenant_id  TEXT COLLATE "C" NOT NULL,
    id         TEXT COLLATE "C" NOT NULL, -- UUIDv7: in the order of time
    at_ns      BIGINT NOT NULL,
    subject    TEXT COLLATE "C" NOT NULL,
    method     TEXT COLLATE "C" NOT NULL,
    request_id TEXT COLLATE "C" NOT NULL,
    action     TEXT COLLATE "C" NOT NULL,
    object     TEXT COLLATE "C" NOT NULL,
    before     TEXT COLLATE "C" NOT NULL, -- JSON, '' if nothing was
    after      TEXT COLLATE "C" NOT NULL, -- JSON, '' if nothing is
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX audit_log_by_object ON audit_log (tenant_id, object, id);

-- The processes that run, and when they said so last. Readers of a replica also see
-- by it how old the replica is.
CREATE TABLE instances (
    tenant_id    TEXT COLLATE "C" NOT NULL DEFAULT '',
    id           TEXT COLLATE "C" NOT NULL,
    started_ns   BIGINT NOT NULL,
    heartbeat_ns BIGINT NOT NULL,
    details      TEXT COLLATE "C" NOT NULL, -- JSON object: version, roles, address
    PRIMARY KEY (tenant_id, id)
);

-- Who may do what only one instance is to do.
CREATE TABLE leases (
    tenant_id  TEXT COLLATE "C" NOT NULL,
    name       TEXT COLLATE "C" NOT NULL,
    holder     TEXT COLLATE "C" NOT NULL, -- '' if it was given back
    token      BIGINT NOT NULL,
    expires_ns BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, name)
);

-- What the sandbox provider did, record by record, for each charge. It stands for a
-- bank: nothing else reads it.
CREATE TABLE sandbox_ledger (
    tenant_id  TEXT COLLATE "C" NOT NULL,
    charge_key TEXT COLLATE "C" NOT NULL,
    n          BIGINT NOT NULL, -- 1 for a charge's first record
    at_ns      BIGINT NOT NULL,
    record     TEXT COLLATE "C" NOT NULL, -- JSON
    PRIMARY KEY (tenant_id, charge_key, n)
);
CREATE INDEX sandbox_ledger_by_start ON sandbox_ledger (at_ns, tenant_id, charge_key) WHERE n = 1;
