-- name: add
INSERT INTO question (work, attempt, batch, task, asker, text, choices, place, asked_at)
SELECT a.work, a.id, a.batch, :task, :asker, :text, :choices, :place, {now} FROM attempt AS a WHERE a.id = :attempt
RETURNING id

-- name: park
UPDATE work SET not_before = :never WHERE id = :work AND state = 'ready'

-- name: answer
UPDATE question SET answer = :answer, answered_by = :by, answered_at = {now}
WHERE id = :id AND answered_at IS NULL
RETURNING work

-- name: unpark
UPDATE work SET not_before = 0 WHERE id = :work AND state = 'ready'

-- name: one
SELECT q.id, q.work, q.attempt, a.number, coalesce(b.name, ''), q.task, q.asker, q.text, q.choices, q.place, q.asked_at,
    q.answer, q.answered_by, q.answered_at, w.key, w.state
FROM question AS q JOIN work AS w ON w.id = q.work JOIN attempt AS a ON a.id = q.attempt
LEFT JOIN batch AS b ON b.id = q.batch
WHERE q.id = :id

-- name: open
SELECT q.id, q.work, q.attempt, a.number, coalesce(b.name, ''), q.task, q.asker, q.text, q.choices, q.place, q.asked_at,
    q.answer, q.answered_by, q.answered_at, w.key, w.state
FROM question AS q JOIN work AS w ON w.id = q.work JOIN attempt AS a ON a.id = q.attempt
LEFT JOIN batch AS b ON b.id = q.batch
WHERE q.answered_at IS NULL AND w.state = 'ready' ORDER BY q.id

-- name: of_batch
SELECT q.id, q.work, q.attempt, a.number, coalesce(b.name, ''), q.task, q.asker, q.text, q.choices, q.place, q.asked_at,
    q.answer, q.answered_by, q.answered_at, w.key, w.state
FROM question AS q JOIN batch_item AS i ON i.work = q.work JOIN work AS w ON w.id = q.work
JOIN attempt AS a ON a.id = q.attempt LEFT JOIN batch AS b ON b.id = q.batch
WHERE i.batch = :batch ORDER BY q.id

-- name: of_work
SELECT q.id, q.work, q.attempt, a.number, coalesce(b.name, ''), q.task, q.asker, q.text, q.choices, q.place, q.asked_at,
    q.answer, q.answered_by, q.answered_at, w.key, w.state
FROM question AS q JOIN work AS w ON w.id = q.work JOIN attempt AS a ON a.id = q.attempt
LEFT JOIN batch AS b ON b.id = q.batch
WHERE q.work = :work ORDER BY q.id

-- name: open_for_batch
SELECT q.task FROM question AS q JOIN batch_item AS i ON i.work = q.work JOIN work AS w ON w.id = q.work
WHERE i.batch = :batch AND q.answered_at IS NULL AND w.state = 'ready'
