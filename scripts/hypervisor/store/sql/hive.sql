-- name: add
INSERT INTO finding (at, branch, task, batch, author, text, digest)
VALUES ({now}, :branch, :task, :batch, :author, :text, :digest)
ON CONFLICT (branch, task, digest) DO NOTHING
RETURNING id

-- name: index
INSERT INTO finding_words (rowid, words) VALUES (:finding, {search_document})

-- name: same
SELECT id, at, branch, task, batch, author, text FROM finding
WHERE branch = :branch AND task = :task AND digest = :digest

-- name: newest
SELECT id, at, branch, task, batch, author, text FROM finding
WHERE (:branch = '' OR branch = :branch) AND (task <> :task OR task = '')
ORDER BY id DESC LIMIT :limit

-- name: matching
SELECT f.id, f.at, f.branch, f.task, f.batch, f.author, f.text
FROM finding_words JOIN finding AS f ON f.id = finding_words.rowid
WHERE {search_matches} AND (:branch = '' OR f.branch = :branch) AND (f.task <> :task OR f.task = '')
ORDER BY {search_rank}, f.id LIMIT :limit

-- name: of_batch
SELECT id, at, branch, task, batch, author, text FROM finding
WHERE batch = :batch OR (batch = '' AND task <> '' AND at >= :since) ORDER BY id

-- name: branches
SELECT branch, count(*) FROM finding GROUP BY branch ORDER BY branch
