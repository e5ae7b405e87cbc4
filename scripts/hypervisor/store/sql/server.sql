-- What only a server's store is asked: who uses it, and how it is.

-- name: keep_origin
INSERT INTO meta (name, value) VALUES ('origin', :origin) ON CONFLICT (name) DO NOTHING

-- name: origin
SELECT value FROM meta WHERE name = 'origin'

-- name: server
SELECT current_setting('server_version'), current_user,
    (SELECT s.ssl FROM pg_stat_ssl AS s WHERE s.pid = pg_backend_pid()),
    pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on',
    CAST((SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0) FROM pg_class AS c
        WHERE c.relnamespace = CAST(:schema AS regnamespace) AND c.relkind = 'r') AS bigint),
    (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()),
    CAST(current_setting('max_connections') AS bigint)

-- name: missing_rights
SELECT c.relname FROM pg_class AS c WHERE c.relnamespace = CAST(:schema AS regnamespace) AND c.relkind = 'r'
AND NOT (has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
    AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE'))
ORDER BY c.relname
