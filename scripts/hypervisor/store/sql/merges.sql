-- name: add
INSERT INTO merge (batch, work, attempt, commit_id, at) VALUES (:batch, :work, :attempt, :commit_id, {now})

-- name: of_work
SELECT commit_id FROM merge WHERE work = :work AND batch = :batch AND work IS NOT NULL ORDER BY id DESC

-- name: moved
SELECT 1 FROM merge WHERE commit_id = :commit_id AND attempt IS NULL LIMIT 1
