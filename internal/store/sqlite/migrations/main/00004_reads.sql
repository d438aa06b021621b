-- +goose Up

-- An older program would take a deleted product for an inactive one, and change
-- products without telling those who read them from memory.
INSERT INTO schema_compat (version, min_compatible) VALUES (4, 4);

-- How often what is read from memory was changed, by topic: 'catalog', and 'places',
-- which belong to all tenants and stand under the tenant '*'.
CREATE TABLE read_versions (
    tenant_id TEXT    NOT NULL,
    topic     TEXT    NOT NULL,
    version   INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, topic)
) WITHOUT ROWID;
INSERT INTO read_versions (tenant_id, topic, version) SELECT DISTINCT tenant_id, 'catalog', 1 FROM products;

ALTER TABLE products ADD COLUMN slug     TEXT    NOT NULL DEFAULT ''; -- '' if there is none
ALTER TABLE products ADD COLUMN position INTEGER NOT NULL DEFAULT 0;
ALTER TABLE products ADD COLUMN deleted  INTEGER NOT NULL DEFAULT 0; -- 1: what is left is a tombstone
ALTER TABLE products ADD COLUMN change   INTEGER NOT NULL DEFAULT 1; -- the version of the catalogue that brought this row

DROP INDEX products_by_category;
CREATE INDEX products_by_category ON products (tenant_id, category, position, sku);
CREATE UNIQUE INDEX products_by_slug ON products (tenant_id, slug) WHERE slug <> '';
CREATE INDEX products_by_change ON products (tenant_id, change);

CREATE TABLE places (
    tenant_id    TEXT    NOT NULL, -- '*'
    id           INTEGER NOT NULL,
    version      INTEGER NOT NULL,
    deleted      INTEGER NOT NULL, -- 1: what is left is a tombstone
    change       INTEGER NOT NULL, -- the version of all places that brought this row
    kind         TEXT    NOT NULL,
    country_code TEXT    NOT NULL,
    admin        TEXT    NOT NULL,
    population   INTEGER NOT NULL,
    located      INTEGER NOT NULL, -- 0: the coordinates are not known
    latitude     REAL    NOT NULL,
    longitude    REAL    NOT NULL,
    names        TEXT    NOT NULL, -- JSON object by language
    updated_ns   INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, id)
) WITHOUT ROWID;
CREATE INDEX places_by_change ON places (tenant_id, change);
