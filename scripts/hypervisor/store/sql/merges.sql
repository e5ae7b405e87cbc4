-- name: add
INSERT INTO merge (batch, is_home, work, attempt, commit_id, at)
VALUES (:batch, :is_home, :work, :attempt, :commit_id, {now})

-- name: set_moved
UPDATE merge SET moved = 1 WHERE batch = :batch AND commit_id = :commit_id AND is_home = 0 AND moved = 0

-- name: close
UPDATE merge SET moved = 2 WHERE batch = :batch AND is_home = 0

-- name: tips
SELECT commit_id, moved FROM merge WHERE batch = :batch AND is_home = 0 AND moved < 2 ORDER BY id

-- name: of_work
SELECT commit_id, moved FROM merge WHERE work = :work AND batch = :batch AND work IS NOT NULL ORDER BY id DESC

-- name: known
SELECT 1 FROM merge WHERE commit_id = :commit_id AND is_home >= :is_home LIMIT 1

-- name: take_lease
INSERT INTO lease (name, holder, lease_until) VALUES (:name, :holder, {lease_now} + :lease)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, token = lease.token + 1,
    lease_until = excluded.lease_until
WHERE lease.lease_until < {lease_now} OR lease.holder = :dead
RETURNING token

-- name: renew_lease
UPDATE lease SET lease_until = {lease_now} + :lease WHERE name = :name AND token = :token RETURNING token

-- name: give_lease
UPDATE lease SET lease_until = 0 WHERE name = :name AND token = :token

-- name: lock_lease
SELECT token FROM lease WHERE name = :name AND token = :token {for_update}

-- name: lease_holder
SELECT w.id, w.kind, w.name, w.host, w.boot, w.pid_namespace, w.pid, w.process_start, w.session, w.agent
FROM lease AS l JOIN worker AS w ON w.id = l.holder WHERE l.name = :name AND l.lease_until >= {lease_now}

-- name: undelivered
SELECT w.id, w.key, w.cycle, w.text, w.state, w.attempts, w.last_number, w.result, 0, a.id, a.batch
FROM work AS w LEFT JOIN attempt AS a ON a.work = w.id
    AND a.id = (SELECT max(b.id) FROM attempt AS b WHERE b.work = w.id)
WHERE w.decided_at IS NOT NULL AND w.published_at IS NULL ORDER BY w.decided_at, w.id LIMIT :limit

-- name: deliver
UPDATE work SET published_at = {now}
WHERE id = :work AND decided_at IS NOT NULL AND published_at IS NULL RETURNING id

-- name: go_on_with
UPDATE batch_item SET work = :next, ready = 0 WHERE work = :work

-- name: delivered
SELECT commit_id FROM merge WHERE work = :work ORDER BY id DESC LIMIT 1

-- name: delivered_all
SELECT w.key, w.state, m.commit_id FROM work AS w JOIN merge AS m ON m.work = w.id
WHERE w.published_at IS NOT NULL
    AND w.cycle = (SELECT max(l.cycle) FROM work AS l WHERE l.key = w.key)
ORDER BY m.id
