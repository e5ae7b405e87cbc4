-- name: ready_flag
SELECT i.batch, i.seq, i.ready, w.state FROM batch_item AS i JOIN work AS w ON w.id = i.work
WHERE (i.ready = 1) <> (w.state = 'ready')

-- name: open_attempts
SELECT w.id, w.key, w.state, count(a.id) FROM work AS w LEFT JOIN attempt AS a ON a.work = w.id AND a.ended_at IS NULL
GROUP BY w.id, w.key, w.state HAVING count(a.id) <> CASE WHEN w.state = 'running' THEN 1 ELSE 0 END

-- name: accepted
SELECT w.id, w.key, w.state, count(a.id) FROM work AS w
LEFT JOIN attempt AS a ON a.work = w.id AND (a.outcome = 'success' OR a.outcome = 'blocked' OR a.outcome = 'failed'
    OR a.outcome = 'skipped')
GROUP BY w.id, w.key, w.state
HAVING count(a.id) > 1 OR (count(a.id) = 0 AND (w.state = 'success' OR w.state = 'blocked'))
    OR (count(a.id) = 1 AND min(a.outcome) <> w.state)

-- name: counted
SELECT w.id, w.key, w.attempts, count(a.id) FROM work AS w
LEFT JOIN attempt AS a ON a.work = w.id AND a.ended_at IS NOT NULL AND a.counted = 1
GROUP BY w.id, w.key, w.attempts HAVING count(a.id) <> w.attempts

-- name: numbers
SELECT w.key, max(w.last_number), coalesce(max(a.number), 0) FROM work AS w LEFT JOIN attempt AS a ON a.work = w.id
GROUP BY w.key HAVING max(w.last_number) < coalesce(max(a.number), 0) OR count(a.id) <> count(DISTINCT a.number)

-- name: cycles
SELECT w.key, count(*), max(w.cycle) FROM work AS w GROUP BY w.key HAVING count(*) <> max(w.cycle)

-- name: open_cycles
SELECT w.key, w.cycle, w.state FROM work AS w JOIN work AS later ON later.key = w.key AND later.cycle = w.cycle + 1
WHERE w.decided_at IS NULL OR w.published_at IS NULL

-- name: results
SELECT id, state, result FROM work WHERE result IS NOT NULL AND id > :after ORDER BY id LIMIT :limit

-- name: foreign_rows
SELECT 'batch_item', i.batch, i.work FROM batch_item AS i LEFT JOIN work AS w ON w.id = i.work
LEFT JOIN batch AS b ON b.id = i.batch WHERE w.id IS NULL OR b.id IS NULL
UNION ALL
SELECT 'attempt', a.id, a.work FROM attempt AS a LEFT JOIN work AS w ON w.id = a.work WHERE w.id IS NULL
UNION ALL
SELECT 'attempt without worker', a.id, a.work FROM attempt AS a LEFT JOIN worker AS k ON k.id = a.worker
WHERE a.ended_at IS NULL AND k.id IS NULL
