-- name: begin
INSERT INTO receipt_item (task, item, state) VALUES (:task, :item, 'begun')
ON CONFLICT (task, item) DO UPDATE SET state = 'begun'
WHERE receipt_item.state = 'failed' OR (receipt_item.state = 'begun' AND :again = 1)
RETURNING state

-- name: state
SELECT state FROM receipt_item WHERE task = :task AND item = :item

-- name: enter
INSERT INTO receipt_item (task, item, state, line) VALUES (:task, :item, :state, :line)
ON CONFLICT (task, item) DO UPDATE SET state = excluded.state, line = excluded.line
WHERE receipt_item.state = 'begun' OR (receipt_item.state = 'failed'
    AND (excluded.state = 'done' OR receipt_item.line <> excluded.line))
RETURNING state

-- name: add_line
INSERT INTO receipt (task, path, item, line, at) VALUES (:task, :path, :item, :line, {now})

-- name: lines
SELECT id, item, line, at, written FROM receipt WHERE task = :task ORDER BY id

-- name: in_doubt
SELECT item FROM receipt_item WHERE task = :task AND state = 'begun' ORDER BY item

-- name: unwritten
SELECT DISTINCT task, path FROM receipt WHERE written = 0

-- name: written
UPDATE receipt SET written = 1 WHERE id IN {ids} AND written = 0
