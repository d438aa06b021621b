-- +goose Up

-- An older program would take a deleted product for an inactive one, and change
-- products without telling those who read them from memory.
INSERT INTO schema_compat (version, min_compatible) VALUES (4, 4);

-- How often what is read from memory was changed, by topic: 'catalog', and 'places',
-- which belong to all tenants and stand under the tenant '*'.
CREATE TABLE read_versions (
    tenant_id TEXT COLLATE "C" NOT NULL,
    topic     TEXT COLLATE "C" NOT NULL,
    version   BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, topic)
) WITH (fillfactor = 50);
INSERT INTO read_versions (tenant_id, topic, version) SELECT DISTINCT tenant_id, 'catalog', 1 FROM products;

ALTER TABLE products
    ADD COLUMN slug     TEXT COLLATE "C" NOT NULL DEFAULT '', -- '' if there is none
    ADD COLUMN position BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN deleted  BIGINT NOT NULL DEFAULT 0, -- 1: what is left is a tombstone
    ADD COLUMN change   BIGINT NOT NULL DEFAULT 1; -- the version of the catalogue that brought this row
-- So that an older program which still runs fails to change products, instead of
-- changing them without raising a version.
ALTER TABLE products ALTER COLUMN change DROP DEFAULT;

-- No index here may seem a way to one row by tenant and SKU, see 00001. Those that
-- lead with the tenant are of some rows only: the planner may use them for
-- statements that name the same condition.
DROP INDEX products_by_category;
CREATE INDEX products_by_category ON products (category, tenant_id, position, sku);
CREATE UNIQUE INDEX products_by_slug ON products (tenant_id, slug) WHERE slug <> '';
CREATE INDEX products_by_change ON products (tenant_id, change) WHERE version > 0; -- all

CREATE TABLE places (
    tenant_id    TEXT COLLATE "C" NOT NULL, -- '*'
    id           BIGINT NOT NULL,
    version      BIGINT NOT NULL,
    deleted      BIGINT NOT NULL, -- 1: what is left is a tombstone
    change       BIGINT NOT NULL, -- the version of all places that brought this row
    kind         TEXT COLLATE "C" NOT NULL,
    country_code TEXT COLLATE "C" NOT NULL,
    admin        TEXT COLLATE "C" NOT NULL,
    population   BIGINT NOT NULL,
    located      BIGINT NOT NULL, -- 0: the coordinates are not known
    latitude     DOUBLE PRECISION NOT NULL,
    longitude    DOUBLE PRECISION NOT NULL,
    names        TEXT COLLATE "C" NOT NULL, -- JSON object by language
    updated_ns   BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, id)
);
CREATE INDEX places_by_change ON places (tenant_id, change) WHERE version > 0; -- all

-- As in 00003.
-- +goose StatementBegin
DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['read_versions', 'places'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY tenant ON %I FOR SELECT USING '
            '(tenant_id = (SELECT nullif(current_setting(''millrace.tenant'', true), '''')))', t);
    END LOOP;
END $$;
-- +goose StatementEnd
