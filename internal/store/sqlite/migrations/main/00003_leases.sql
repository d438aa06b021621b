-- +goose Up

-- An older program may use the file: it has no leases.
INSERT INTO schema_compat (version, min_compatible) VALUES (3, 1);

-- Who may do what only one instance is to do. tenant_id is empty: they belong to
-- no tenant.
CREATE TABLE leases (
    tenant_id  TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    holder     TEXT    NOT NULL, -- '' if it was given back
    token      INTEGER NOT NULL,
    expires_ns INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, name)
) WITHOUT ROWID;
