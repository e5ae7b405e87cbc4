-- name: create
INSERT INTO batch (name, folder, created_at, options) VALUES (:name, :folder, {now}, :options)
ON CONFLICT (name) DO NOTHING

-- name: by_name
SELECT id, name, folder, created_at, options, queue_offset, queue_tail, drain_at, finished_at, duplicates
FROM batch WHERE name = :name

-- name: by_id
SELECT id, name, folder, created_at, options, queue_offset, queue_tail, drain_at, finished_at, duplicates
FROM batch WHERE id = :batch

-- name: by_folder
SELECT id, name, folder, created_at, options, queue_offset, queue_tail, drain_at, finished_at, duplicates
FROM batch WHERE folder = :folder ORDER BY id DESC LIMIT 1

-- name: all
SELECT id, name, folder, created_at, options, queue_offset, queue_tail, drain_at, finished_at, duplicates
FROM batch ORDER BY id

-- name: set_options
UPDATE batch SET options = :options WHERE id = :batch

-- name: advance
UPDATE batch SET queue_offset = :stop, queue_tail = :tail WHERE id = :batch AND queue_offset = :start
RETURNING id

-- name: lock
SELECT id FROM batch WHERE id = :batch {for_update}

-- name: last_seq
SELECT coalesce(max(seq), 0) FROM batch_item WHERE batch = :batch

-- name: add_work
INSERT INTO work (key, cycle, text, state) VALUES (:key, 1, :text, 'ready') ON CONFLICT (key, cycle) DO NOTHING
RETURNING key, id

-- name: add_new_item
INSERT INTO batch_item (batch, seq, work, priority) VALUES (:batch, :seq, :work, :priority)

-- name: add_item
INSERT INTO batch_item (batch, seq, work, priority, ready)
SELECT :batch, :seq, w.id, :priority, CASE WHEN w.state = 'ready' THEN 1 ELSE 0 END
FROM work AS w WHERE w.key = :key AND NOT EXISTS (
    SELECT 1 FROM batch_item AS i JOIN work AS other ON other.id = i.work
    WHERE other.key = :key AND i.batch = :batch)
ORDER BY w.cycle DESC LIMIT 1 {share_work}
ON CONFLICT DO NOTHING
RETURNING seq

-- name: known
SELECT 1 FROM batch_item AS i JOIN work AS w ON w.id = i.work WHERE w.key = :key AND i.batch = :batch

-- name: count_duplicates
UPDATE batch SET duplicates = duplicates + :count WHERE id = :batch

-- name: census
SELECT w.state, count(*) FROM batch_item AS i JOIN work AS w ON w.id = i.work WHERE i.batch = :batch GROUP BY w.state

-- name: any_ready
SELECT 1 FROM batch_item WHERE batch = :batch AND ready = 1 LIMIT 1

-- name: room
SELECT (SELECT count(*) FROM (SELECT 1 FROM batch_item WHERE batch = :batch AND ready = 1 LIMIT :limit) AS few),
    (SELECT count(DISTINCT worker) FROM attempt WHERE ended_at IS NULL)

-- name: any_running
SELECT 1 FROM attempt AS a JOIN batch_item AS i ON i.work = a.work
WHERE a.ended_at IS NULL AND i.batch = :batch LIMIT 1

-- name: holds
SELECT 1 FROM batch_item WHERE work = :work AND batch = :batch

-- name: next_ready_at
SELECT min(w.not_before) - {now} FROM batch_item AS i JOIN work AS w ON w.id = i.work
WHERE i.batch = :batch AND i.ready = 1

-- name: running
SELECT a.id, a.number, a.claimed_at, w.id, w.key, w.text, k.id, k.name, k.host, k.pid, k.session, k.agent, a.log,
    i.seq, a.runner
FROM attempt AS a JOIN batch_item AS i ON i.work = a.work JOIN work AS w ON w.id = a.work
LEFT JOIN worker AS k ON k.id = a.worker
WHERE a.ended_at IS NULL AND i.batch = :batch ORDER BY a.claimed_at, a.id

-- name: items
SELECT i.seq, i.priority, w.id, w.key, w.cycle, w.text, w.state, w.attempts, w.last_number, w.result,
    w.published_at IS NOT NULL
FROM batch_item AS i JOIN work AS w ON w.id = i.work
WHERE i.batch = :batch AND i.seq > :after ORDER BY i.seq LIMIT :limit

-- name: items_in
SELECT i.seq, i.priority, w.id, w.key, w.cycle, w.text, w.state, w.attempts, w.last_number, w.result,
    w.published_at IS NOT NULL
FROM batch_item AS i JOIN work AS w ON w.id = i.work
WHERE i.batch = :batch AND i.seq > :after AND w.state IN {names} ORDER BY i.seq LIMIT :limit

-- name: of_work
SELECT b.id, b.name, b.folder, b.created_at, b.options, b.queue_offset, b.queue_tail, b.drain_at, b.finished_at,
    b.duplicates
FROM batch_item AS i JOIN batch AS b ON b.id = i.batch WHERE i.work = :work ORDER BY b.id DESC

-- name: folders_of
SELECT b.folder, i.work FROM batch_item AS i JOIN batch AS b ON b.id = i.batch WHERE i.work IN {ids}

-- name: drain
UPDATE batch SET drain_at = {now} WHERE id = :batch

-- name: finish
UPDATE batch SET finished_at = {now} WHERE id = :batch

-- name: spent
SELECT i.work, count(*), sum(a.tokens), sum(a.cost_usd)
FROM batch_item AS i JOIN attempt AS a ON a.work = i.work AND a.batch = i.batch
WHERE i.batch = :batch GROUP BY i.work

-- name: spent_by_runner
SELECT coalesce(a.runner, ''), count(*), sum(a.tokens), sum(a.cost_usd)
FROM batch_item AS i JOIN attempt AS a ON a.work = i.work AND a.batch = i.batch
WHERE i.batch = :batch GROUP BY coalesce(a.runner, '')

-- name: freeze
INSERT INTO task_terms (batch, work, terms) VALUES (:batch, :work, :terms) ON CONFLICT (batch, work) DO NOTHING

-- name: terms
SELECT work, terms FROM task_terms WHERE batch = :batch

-- name: terms_of
SELECT terms FROM task_terms WHERE batch = :batch AND work = :work
