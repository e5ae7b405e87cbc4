-- name: plan
SELECT plan, version, outdated, run FROM chunk_plan WHERE batch = :batch

-- name: add_plan
INSERT INTO chunk_plan (batch, plan, outdated) VALUES (:batch, :plan, :outdated)
ON CONFLICT (batch) DO NOTHING
RETURNING version

-- name: set_plan
UPDATE chunk_plan SET plan = :plan, version = version + 1, outdated = :outdated
WHERE batch = :batch AND version = :version
RETURNING version

-- name: plan_written
UPDATE chunk_plan SET outdated = '' WHERE batch = :batch AND version = :version AND outdated <> ''

-- name: set_run
UPDATE chunk_plan SET run = :run WHERE batch = :batch

-- name: items
SELECT item, digest, fields FROM chunk_item WHERE batch = :batch ORDER BY seq

-- name: last_item
SELECT coalesce(max(seq), 0) FROM chunk_item WHERE batch = :batch

-- name: add_item
INSERT INTO chunk_item (batch, seq, item, digest, fields) VALUES (:batch, :seq, :item, :digest, :fields)
ON CONFLICT (batch, item) DO NOTHING

-- name: drop_chunks
DELETE FROM batch_item WHERE batch = :batch AND work IN (
    SELECT w.id FROM batch_item AS i JOIN work AS w ON w.id = i.work
    WHERE i.batch = :batch AND w.state = 'ready' AND w.last_number = 0 AND w.text NOT IN {names}
        AND NOT EXISTS (SELECT 1 FROM chunk AS c WHERE c.batch = i.batch AND c.name = w.text)
)

-- name: begun
SELECT name, items, revision FROM chunk WHERE batch = :batch ORDER BY begun_at, name

-- name: begin_chunk
INSERT INTO chunk (batch, name, items, begun_at) VALUES (:batch, :name, :items, {now})
ON CONFLICT (batch, name) DO NOTHING

-- name: begin_wave
INSERT INTO wave (batch, number, chunks, criteria, checkpoint, begun_at)
VALUES (:batch, :number, :chunks, :criteria, :checkpoint, {now})
ON CONFLICT (batch, number) DO NOTHING
RETURNING number

-- name: waves
SELECT number, chunks, criteria, checkpoint FROM wave WHERE batch = :batch ORDER BY number

-- name: open_wave
UPDATE wave SET opened_at = {now} WHERE batch = :batch AND number = :number AND opened_at IS NULL
RETURNING number

-- name: decisions
SELECT wave, verdict, decided_by, decided_at, criteria, chunks, midway
FROM decision WHERE batch = :batch ORDER BY wave, number

-- name: decide
INSERT INTO decision (batch, wave, number, verdict, decided_by, decided_at, criteria, chunks, midway)
SELECT w.batch, w.number, :number, :verdict, :by, {now}, :criteria, :chunks, :midway
FROM wave AS w WHERE w.batch = :batch AND w.number = :wave
    AND NOT EXISTS (SELECT 1 FROM wave AS n WHERE n.batch = w.batch AND n.number > w.number)
ON CONFLICT (batch, wave, number) DO NOTHING
RETURNING decided_at

-- name: revise_chunks
UPDATE chunk SET revision = revision + 1 WHERE batch = :batch AND name IN {names}

-- name: work_of_chunks
SELECT w.id, w.key, w.text FROM batch_item AS i JOIN work AS w ON w.id = i.work
WHERE i.batch = :batch AND w.text IN {names} ORDER BY i.seq

-- name: states
SELECT w.text, w.state, w.result FROM batch_item AS i JOIN work AS w ON w.id = i.work
WHERE i.batch = :batch ORDER BY i.seq

-- name: revision
SELECT revision FROM chunk WHERE batch = :batch AND name = :chunk

-- name: add_note
INSERT INTO note (batch, chunk, revision, item, category, rationale, noted_at)
SELECT c.batch, c.name, c.revision, :item, :category, :rationale, {now} FROM chunk AS c
WHERE c.batch = :batch AND c.name = :chunk AND c.revision = :revision
ON CONFLICT (batch, chunk, revision, item) DO UPDATE
SET category = excluded.category, rationale = excluded.rationale, noted_at = excluded.noted_at
WHERE note.category <> excluded.category OR note.rationale <> excluded.rationale
RETURNING id

-- name: notes
SELECT n.item, n.category, n.rationale FROM note AS n JOIN chunk AS c ON c.batch = n.batch AND c.name = n.chunk
WHERE n.batch = :batch AND n.chunk = :chunk AND n.revision = c.revision ORDER BY n.id

-- name: add_gate
INSERT INTO approval (folder, task, patterns, added_at) VALUES (:folder, :task, :patterns, {now})
ON CONFLICT (folder) DO NOTHING

-- name: remove_gate
DELETE FROM approval WHERE folder = :folder

-- name: gates
SELECT folder, task, patterns FROM approval ORDER BY added_at, folder

-- name: batch_named
SELECT id FROM batch WHERE name = :name

-- name: first_batch
SELECT id FROM batch ORDER BY id LIMIT 1
