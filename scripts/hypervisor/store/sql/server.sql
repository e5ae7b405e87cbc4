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

-- name: machines
SELECT k.host, min({now} - k.seen_at) FROM worker AS k WHERE k.seen_at > {now} - :within GROUP BY k.host ORDER BY k.host

-- name: clock
SELECT {now}

-- name: leases
SELECT l.name, coalesce(k.name, l.holder), coalesce(k.host, ''), l.lease_until - {lease_now}
FROM lease AS l LEFT JOIN worker AS k ON k.id = l.holder WHERE l.lease_until >= {lease_now} ORDER BY l.name

-- name: coordinators
SELECT s.host, {now} - s.updated_at, s.zone FROM spend AS s WHERE s.updated_at > {now} - :within AND s.host <> ''
ORDER BY s.updated_at

-- name: coordinator
SELECT {now} - updated_at FROM spend WHERE run = :run

-- name: idle_elsewhere
SELECT k.id FROM worker AS k
WHERE k.kind = 'process' AND k.host <> :host AND k.seen_at > {now} - :within
    AND NOT EXISTS (SELECT 1 FROM attempt AS a WHERE a.worker = k.id AND a.ended_at IS NULL)
ORDER BY k.id

-- name: at_work
SELECT k.host, w.text, a.number, k.name, {now} - a.claimed_at, :lease - (a.lease_until - {lease_now})
FROM attempt AS a JOIN work AS w ON w.id = a.work JOIN worker AS k ON k.id = a.worker
WHERE a.ended_at IS NULL ORDER BY k.host, a.claimed_at, a.id
