-- +goose Up

INSERT INTO schema_compat (version, min_compatible) VALUES (2, 1);

-- Times are Unix nanoseconds, 0 means none. Money is in minor units.

CREATE TABLE products (
    tenant_id    TEXT    NOT NULL,
    sku          TEXT    NOT NULL,
    version      INTEGER NOT NULL,
    active       INTEGER NOT NULL,
    amount       INTEGER NOT NULL CHECK (amount >= 0),
    currency     TEXT    NOT NULL,
    category     TEXT    NOT NULL,
    names        TEXT    NOT NULL, -- JSON object by language
    descriptions TEXT    NOT NULL, -- JSON object by language
    attributes   TEXT    NOT NULL, -- JSON object, '' if there is none
    created_ns   INTEGER NOT NULL,
    updated_ns   INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, sku)
);
CREATE INDEX products_by_category ON products (tenant_id, category, sku);

CREATE TABLE product_prices (
    tenant_id       TEXT    NOT NULL,
    sku             TEXT    NOT NULL,
    product_version INTEGER NOT NULL,
    amount          INTEGER NOT NULL,
    currency        TEXT    NOT NULL,
    from_ns         INTEGER NOT NULL,
    changed_by      TEXT    NOT NULL,
    PRIMARY KEY (tenant_id, sku, product_version)
) WITHOUT ROWID;

-- The checks are the last line of defence: nothing is ever oversold.
CREATE TABLE stock (
    tenant_id  TEXT    NOT NULL,
    sku        TEXT    NOT NULL,
    on_hand    INTEGER NOT NULL CHECK (on_hand >= 0),
    reserved   INTEGER NOT NULL CHECK (reserved >= 0),
    version    INTEGER NOT NULL,
    updated_ns INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, sku),
    CHECK (reserved <= on_hand)
) WITHOUT ROWID;

CREATE TABLE stock_import_lines (
    tenant_id  TEXT    NOT NULL,
    import_id  TEXT    NOT NULL,
    line       INTEGER NOT NULL,
    content    TEXT    NOT NULL, -- what the line said, to tell it from another under its number
    applied_ns INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, import_id, line)
) WITHOUT ROWID;

-- What a caller's Idempotency-Key stands for. scope says which kind of request it
-- was used for: order, refund, stock.
CREATE TABLE idempotency_keys (
    tenant_id   TEXT    NOT NULL,
    scope       TEXT    NOT NULL,
    subject     TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    fingerprint BLOB    NOT NULL, -- SHA-256 of the decoded request
    object_id   TEXT    NOT NULL, -- what the request made or changed
    answer      TEXT    NOT NULL, -- what cannot be told from the object, '' if all can
    created_ns  INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, scope, subject, key)
) WITHOUT ROWID;
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_ns);

CREATE TABLE orders (
    tenant_id       TEXT    NOT NULL,
    id              TEXT    NOT NULL, -- UUIDv7: in the order of placement
    customer_id     TEXT    NOT NULL,
    status          TEXT    NOT NULL,
    version         INTEGER NOT NULL,
    currency        TEXT    NOT NULL,
    total           INTEGER NOT NULL CHECK (total > 0),
    captured        INTEGER NOT NULL CHECK (captured >= 0 AND captured <= total),
    refunded        INTEGER NOT NULL CHECK (refunded >= 0 AND refunded <= captured),
    lines           TEXT    NOT NULL, -- JSON array
    details         TEXT    NOT NULL, -- JSON object: what never changes (contact, address, note, payment token)
    progress        TEXT    NOT NULL, -- JSON object: what the transitions change besides the columns
    placed_ns       INTEGER NOT NULL,
    updated_ns      INTEGER NOT NULL,
    deadline_ns     INTEGER NOT NULL,
    attempts        INTEGER NOT NULL,
    next_attempt_ns INTEGER NOT NULL, -- 0: nothing to do by itself
    parked_ns       INTEGER NOT NULL, -- not 0: left alone until it is redriven
    last_error      TEXT    NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX orders_by_customer ON orders (tenant_id, customer_id, id);
CREATE INDEX orders_by_status ON orders (tenant_id, status, id);
-- Two, so that what is only waiting for its completion, which may be very much, is
-- not in the way of what is being worked on.
CREATE INDEX orders_due ON orders (next_attempt_ns) WHERE next_attempt_ns > 0 AND parked_ns = 0 AND status <> 'shipped';
CREATE INDEX orders_due_shipped ON orders (next_attempt_ns) WHERE next_attempt_ns > 0 AND parked_ns = 0 AND status = 'shipped';

CREATE TABLE order_history (
    tenant_id   TEXT    NOT NULL,
    order_id    TEXT    NOT NULL,
    version     INTEGER NOT NULL, -- of the order after the transition
    at_ns       INTEGER NOT NULL,
    event       TEXT    NOT NULL,
    from_status TEXT    NOT NULL,
    to_status   TEXT    NOT NULL,
    actor       TEXT    NOT NULL,
    reason      TEXT    NOT NULL,
    PRIMARY KEY (tenant_id, order_id, version)
) WITHOUT ROWID;

-- A queue of this database's own, not a tenant's data: its key begins with the
-- road out.
CREATE TABLE outbox (
    lane      TEXT    NOT NULL,
    seq       INTEGER NOT NULL,
    tenant_id TEXT    NOT NULL,
    subject   TEXT    NOT NULL,
    id        TEXT    NOT NULL,
    at_ns     INTEGER NOT NULL,
    trace     TEXT    NOT NULL,
    data      BLOB    NOT NULL,
    PRIMARY KEY (lane, seq)
) WITHOUT ROWID;

CREATE TABLE webhook_endpoints (
    tenant_id       TEXT    NOT NULL,
    id              TEXT    NOT NULL,
    url             TEXT    NOT NULL,
    events          TEXT    NOT NULL, -- JSON array of event types
    secrets         TEXT    NOT NULL, -- JSON array of {key, expiresNs}, the current one first
    version         INTEGER NOT NULL,
    created_ns      INTEGER NOT NULL,
    updated_ns      INTEGER NOT NULL,
    disabled_ns     INTEGER NOT NULL,
    disabled_reason TEXT    NOT NULL,
    PRIMARY KEY (tenant_id, id)
);

CREATE TABLE webhook_deliveries (
    tenant_id       TEXT    NOT NULL,
    id              TEXT    NOT NULL,
    endpoint_id     TEXT    NOT NULL,
    event_type      TEXT    NOT NULL,
    object_id       TEXT    NOT NULL, -- the order it speaks of
    payload         TEXT    NOT NULL,
    created_ns      INTEGER NOT NULL,
    attempts        INTEGER NOT NULL,
    next_attempt_ns INTEGER NOT NULL, -- 0: settled
    delivered_ns    INTEGER NOT NULL,
    last_status     INTEGER NOT NULL,
    last_error      TEXT    NOT NULL,
    trace           TEXT    NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
-- By endpoint first: a backlog of one endpoint is never in the way of another's.
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (tenant_id, endpoint_id, next_attempt_ns) WHERE next_attempt_ns > 0;
CREATE INDEX webhook_deliveries_by_endpoint ON webhook_deliveries (tenant_id, endpoint_id, id);
CREATE INDEX webhook_deliveries_settled ON webhook_deliveries (created_ns) WHERE next_attempt_ns = 0;

CREATE TABLE audit_log (
    tenant_id  TEXT    NOT NULL,
    id         TEXT    NOT NULL, -- UUIDv7: in the order of time
    at_ns      INTEGER NOT NULL,
    subject    TEXT    NOT NULL,
    method     TEXT    NOT NULL,
    request_id TEXT    NOT NULL,
    action     TEXT    NOT NULL,
    object     TEXT    NOT NULL,
    before     TEXT    NOT NULL, -- JSON, '' if nothing was
    after      TEXT    NOT NULL, -- JSON, '' if nothing is
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX audit_log_by_object ON audit_log (tenant_id, object, id);
