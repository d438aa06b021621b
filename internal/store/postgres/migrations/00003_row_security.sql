-- +goose Up

-- Every table of tenants' rows shows a role that does not own it nothing but the
-- rows of the tenant in the session setting millrace.tenant, and nothing when that
-- is not set. The owner, who writes, is not bound by it. The setting is read once
-- per statement, as a sub-select, and not once per row.
-- +goose StatementBegin
DO $$
DECLARE
    t regclass;
BEGIN
    FOR t IN
        SELECT c.oid FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
        WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
          -- What belongs to no tenant.
          AND c.relname NOT IN ('schema_compat', 'instances', 'leases', 'event_batches')
    LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY tenant ON %s FOR SELECT USING '
            '(tenant_id = (SELECT nullif(current_setting(''millrace.tenant'', true), '''')))', t);
    END LOOP;
END $$;
-- +goose StatementEnd

INSERT INTO schema_compat (version, min_compatible) VALUES (3, 3);
