-- name: now
SELECT {now}

-- name: changed
SELECT i.seq FROM event AS e CROSS JOIN batch_item AS i  -- CROSS: the few events first, for SQLite
WHERE e.id > :since AND {settled} AND i.work = e.work AND i.batch = :batch
UNION
SELECT seq FROM batch_item WHERE batch = :batch AND seq > :after
ORDER BY 1

-- name: items
SELECT i.seq, w.decided_at, w.id, w.key, w.cycle, w.text, w.state, w.attempts, w.last_number, w.result,
    w.published_at IS NOT NULL
FROM batch_item AS i JOIN work AS w ON w.id = i.work
WHERE i.batch = :batch AND i.seq IN {ids} ORDER BY i.seq

-- name: attempts
SELECT i.seq, a.work = i.work, a.number, a.worker, k.name, k.session, k.agent, a.claimed_at, a.ended_at, a.outcome,
    a.detail, a.tokens, a.cost_usd, a.log, a.runner
FROM batch_item AS i JOIN work AS w ON w.id = i.work JOIN work AS o ON o.key = w.key
JOIN attempt AS a ON a.work = o.id LEFT JOIN worker AS k ON k.id = a.worker
WHERE i.batch = :batch AND i.seq IN {ids} AND (a.work = i.work OR a.batch = i.batch) ORDER BY i.seq, a.number

-- name: spending
SELECT count(*), count(a.tokens), sum(a.tokens), count(a.cost_usd), sum(a.cost_usd)
FROM batch_item AS i JOIN work AS w ON w.id = i.work JOIN work AS o ON o.key = w.key
JOIN attempt AS a ON a.work = o.id
WHERE i.batch = :batch AND a.ended_at IS NOT NULL AND (a.work = i.work OR a.batch = i.batch)

-- name: speed
SELECT {now}, count(*), min(a.claimed_at), count(CASE WHEN w.decided_at > {now} - :window THEN 1 END)
FROM batch_item AS i JOIN work AS w ON w.id = i.work
JOIN attempt AS a ON a.work = w.id AND a.number = w.last_number
WHERE i.batch = :batch AND w.decided_at IS NOT NULL AND (a.outcome = w.state OR a.counted = 1)

-- name: last_ends
SELECT w.decided_at FROM batch_item AS i JOIN work AS w ON w.id = i.work
JOIN attempt AS a ON a.work = w.id AND a.number = w.last_number
WHERE i.batch = :batch AND w.decided_at IS NOT NULL AND (a.outcome = w.state OR a.counted = 1)
ORDER BY w.decided_at DESC LIMIT :limit

-- name: failures
SELECT w.id, w.key, w.cycle, w.text, w.state, w.attempts, w.last_number, w.result, w.published_at IS NOT NULL
FROM batch_item AS i JOIN work AS w ON w.id = i.work
WHERE i.batch = :batch AND w.state IN ('failed', 'blocked') ORDER BY w.decided_at DESC, w.id DESC LIMIT :limit

-- name: latest
SELECT w.id, w.key, w.cycle, w.text, w.state, w.attempts, w.last_number, w.result, w.published_at IS NOT NULL
FROM attempt AS a JOIN work AS w ON w.id = a.work
WHERE a.batch = :batch AND a.ended_at IS NOT NULL AND w.state IN ('success', 'skipped') ORDER BY a.id DESC LIMIT :limit

-- name: took_part
SELECT DISTINCT a.worker FROM batch_item AS i JOIN attempt AS a ON a.work = i.work
WHERE i.batch = :batch AND a.worker IN {names}

-- name: held
SELECT a.id, a.number, a.claimed_at, w.id, w.key, w.text, a.worker, k.name, k.host, k.session, k.agent, a.log,
    a.batch, {now} - k.seen_at, a.lease_until - {lease_now}
FROM attempt AS a JOIN work AS w ON w.id = a.work LEFT JOIN worker AS k ON k.id = a.worker
WHERE a.ended_at IS NULL ORDER BY a.claimed_at, a.id
