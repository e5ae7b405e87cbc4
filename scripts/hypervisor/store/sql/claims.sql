-- name: add_worker
INSERT INTO worker (id, kind, name, host, boot, pid_namespace, pid, process_start, session, agent, started_at, seen_at)
VALUES (:id, :kind, :name, :host, :boot, :pid_namespace, :pid, :process_start, :session, :agent, {now}, {now})
ON CONFLICT (id) DO UPDATE SET name = excluded.name, seen_at = excluded.seen_at

-- name: next_ready
SELECT w.id, w.key, w.cycle, w.text FROM batch_item AS i JOIN work AS w ON w.id = i.work
WHERE i.batch = :batch AND i.ready = 1 AND w.state = 'ready' AND w.not_before <= {now}
ORDER BY i.priority, i.seq LIMIT :limit {skip_locked}

-- name: claim_works
UPDATE work SET state = 'running', last_number = last_number + 1 WHERE id IN {ids} AND state = 'ready'
RETURNING id

-- name: claim_work
UPDATE work SET state = 'running', last_number = last_number + 1
WHERE id = :work AND state = 'ready'
RETURNING id, key, cycle, text

-- name: not_ready
UPDATE batch_item SET ready = 0 WHERE work IN {ids} AND ready = 1

-- name: open_attempts
INSERT INTO attempt (work, number, worker, batch, claimed_at, lease_until, revert, lock)
SELECT id, last_number, :worker, CAST(:batch AS {int}), {now}, {lease_now} + :lease, :revert,
    CASE WHEN :locks = 1 THEN key ELSE :lock END
FROM work WHERE id IN {ids}
RETURNING id, work, number

-- name: add_claimed
INSERT INTO event (at, kind, work, attempt, detail)
SELECT claimed_at, 'claimed', work, id, worker FROM attempt WHERE id IN {ids} ORDER BY id

-- name: add_event
INSERT INTO event (at, kind, batch, work, attempt, detail)
VALUES ({now}, :kind, :batch, :work, :attempt, :detail)

-- name: renew
UPDATE attempt SET lease_until = {lease_now} + :lease WHERE id IN {ids} AND ended_at IS NULL
RETURNING id

-- name: lock_open
SELECT a.id, a.work FROM attempt AS a JOIN work AS w ON w.id = a.work
WHERE a.id IN {ids} AND a.ended_at IS NULL AND w.state = 'running' ORDER BY a.id {lock_both}

-- name: complete_attempt
UPDATE attempt SET ended_at = {now}, outcome = :status, detail = :detail, counted = 0,
    tokens = :tokens, cost_usd = :cost_usd, log = coalesce(:log, log)
WHERE id = :attempt AND ended_at IS NULL

-- name: add_completed
INSERT INTO event (at, kind, work, attempt, detail)
SELECT ended_at, 'completed', work, id, outcome FROM attempt WHERE id IN {ids} ORDER BY id

-- name: end_attempt
UPDATE attempt SET ended_at = {now}, outcome = :outcome, detail = :detail, counted = :counted,
    tokens = :tokens, cost_usd = :cost_usd, log = coalesce(:log, log)
WHERE id = :attempt AND ended_at IS NULL
RETURNING id, work

-- name: end_silent_attempt
UPDATE attempt SET ended_at = {now}, outcome = 'revoked', detail = :detail, counted = 1
WHERE id = :attempt AND ended_at IS NULL AND lease_until < {lease_now}
RETURNING id, work

-- name: decide
UPDATE work SET state = :status, result = :result, decided_at = {now},
    published_at = CASE WHEN :published = 1 THEN {now} END
WHERE id = :work AND state = 'running'

-- name: give_back
UPDATE work SET attempts = attempts + :counted,
    state = CASE WHEN :counted > 0 AND attempts + :counted >= :limit THEN 'failed' ELSE 'ready' END,
    result = CASE WHEN :counted > 0 AND attempts + :counted >= :limit THEN :gave_up END,
    decided_at = CASE WHEN :counted > 0 AND attempts + :counted >= :limit THEN {now} END,
    not_before = CASE WHEN :delay > 0 THEN {now} + :delay ELSE 0 END
WHERE id = :work AND state = 'running'
RETURNING state

-- name: successes
SELECT w.key, w.result FROM work AS w
WHERE w.key IN {names} AND w.state = 'success'
    AND w.cycle = (SELECT max(l.cycle) FROM work AS l WHERE l.key = w.key)

-- name: forget_attempts
DELETE FROM attempt WHERE id IN {ids} AND ended_at IS NULL RETURNING id, work

-- name: not_begun
UPDATE work SET state = 'ready', last_number = last_number - 1,
    not_before = CASE WHEN :delay > 0 THEN {now} + :delay ELSE 0 END
WHERE id IN {ids} AND state = 'running'

-- name: all_ready_again
UPDATE batch_item SET ready = 1 WHERE work IN {ids} AND ready = 0

-- name: set_lock
UPDATE attempt SET lock = :lock WHERE id = :attempt AND ended_at IS NULL RETURNING id

-- name: ready_again
UPDATE batch_item SET ready = 1 WHERE work = :work AND ready = 0

-- name: counted_attempts
SELECT number, detail, revert FROM attempt WHERE work = :work AND counted = 1 ORDER BY number

-- name: limit_reached
SELECT text FROM work WHERE id = :work

-- name: work_of_attempt
SELECT work FROM attempt WHERE id = :attempt

-- name: fate
SELECT a.number, a.outcome, a.detail, w.state, w.result, w.key,
    (SELECT b.number FROM attempt AS b WHERE b.work = a.work AND b.outcome = w.state ORDER BY b.id DESC LIMIT 1)
FROM attempt AS a JOIN work AS w ON w.id = a.work WHERE a.id = :attempt

-- name: expired
SELECT id FROM attempt WHERE ended_at IS NULL AND lease_until < {lease_now} ORDER BY work LIMIT :limit

-- name: holders
SELECT DISTINCT w.id, w.kind, w.name, w.host, w.boot, w.pid_namespace, w.pid, w.process_start, w.session, w.agent
FROM attempt AS a JOIN worker AS w ON w.id = a.worker WHERE a.ended_at IS NULL

-- name: open_of_worker
SELECT id, lock FROM attempt WHERE worker = :worker AND ended_at IS NULL ORDER BY id LIMIT :limit

-- name: latest
SELECT id, key, cycle, text, state, attempts, last_number, result, published_at IS NOT NULL
FROM work WHERE key = :key ORDER BY cycle DESC LIMIT 1

-- name: work
SELECT id, key, cycle, text, state, attempts, last_number, result, published_at IS NOT NULL
FROM work WHERE id = :work

-- name: insert_work
INSERT INTO work (key, cycle, text, state, last_number)
VALUES (:key, :cycle, :text, 'ready', :last_number)
ON CONFLICT (key, cycle) DO NOTHING
RETURNING id

-- name: holder
SELECT a.id, a.work, a.number, a.claimed_at, a.lease_until - {lease_now}, a.revert, a.batch, k.key, k.cycle, k.text, a.lock,
    w.id, w.kind, w.name, w.host, w.boot, w.pid_namespace, w.pid, w.process_start, w.session, w.agent,
    {now} - w.seen_at
FROM attempt AS a JOIN worker AS w ON w.id = a.worker JOIN work AS k ON k.id = a.work
WHERE a.work = :work AND a.ended_at IS NULL

-- name: held_all
SELECT a.id, a.work, a.number, a.claimed_at, a.lease_until - {lease_now}, a.revert, a.batch, k.key, k.cycle, k.text, a.lock,
    w.id, w.kind, w.name, w.host, w.boot, w.pid_namespace, w.pid, w.process_start, w.session, w.agent,
    {now} - w.seen_at
FROM attempt AS a JOIN worker AS w ON w.id = a.worker JOIN work AS k ON k.id = a.work
WHERE a.ended_at IS NULL ORDER BY a.id

-- name: held_in_session
SELECT a.id, a.work, a.number, a.claimed_at, a.lease_until - {lease_now}, a.revert, a.batch, k.key, k.cycle, k.text, a.lock,
    w.id, w.kind, w.name, w.host, w.boot, w.pid_namespace, w.pid, w.process_start, w.session, w.agent,
    {now} - w.seen_at
FROM worker AS w JOIN attempt AS a ON a.worker = w.id JOIN work AS k ON k.id = a.work
WHERE w.session = :session AND w.session <> '' AND (w.agent = :agent OR :all_agents = 1) AND a.ended_at IS NULL
ORDER BY a.id

-- name: attempts
SELECT a.id, a.number, w.name, w.session, w.agent, a.claimed_at, a.ended_at, a.outcome, a.detail, a.counted,
    a.revert, a.restored, a.tokens, a.cost_usd, a.log, a.worker, a.runner, a.work, a.batch
FROM attempt AS a JOIN work AS k ON k.id = a.work LEFT JOIN worker AS w ON w.id = a.worker
WHERE k.key = :key ORDER BY a.number

-- name: unrestored
SELECT id, revert FROM attempt
WHERE work = :work AND ended_at IS NOT NULL AND revert IS NOT NULL AND restored = 0 ORDER BY number

-- name: abandoned
SELECT a.id, a.work, k.key, k.text, a.revert FROM attempt AS a JOIN work AS k ON k.id = a.work
WHERE a.revert IS NOT NULL AND a.restored = 0 AND a.outcome IN ('again', 'revoked') AND k.state = 'ready'
ORDER BY a.id

-- name: restored
UPDATE attempt SET restored = 1 WHERE id IN {ids} AND restored = 0

-- name: set_revert
UPDATE attempt SET revert = :revert WHERE id = :attempt AND ended_at IS NULL RETURNING id

-- name: set_log
UPDATE attempt SET log = :log, runner = :runner WHERE id = :attempt AND ended_at IS NULL RETURNING id

-- name: unpublished
SELECT w.id, w.key, w.cycle, w.text, w.result FROM work AS w
WHERE w.decided_at IS NOT NULL AND w.published_at IS NULL AND w.id > :after ORDER BY w.id LIMIT :limit

-- name: published
UPDATE work SET published_at = {now} WHERE id IN {ids} AND decided_at IS NOT NULL AND published_at IS NULL

-- name: open_attempt_of
SELECT id FROM attempt WHERE work = :work AND ended_at IS NULL

-- name: cancel
UPDATE work SET state = 'skipped', result = :result, decided_at = {now},
    published_at = CASE WHEN :published = 1 THEN {now} END
WHERE id = :work AND state IN ('ready', 'running') AND last_number = :number
RETURNING id

-- name: recorded_locks
SELECT DISTINCT lock FROM attempt WHERE lock IS NOT NULL AND lock IN {names}

-- name: locks_of_work
SELECT id, lock FROM attempt WHERE work = :work AND lock IS NOT NULL

-- name: forget_locks
UPDATE attempt SET lock = NULL WHERE id IN {ids} AND lock IS NOT NULL

-- name: cycles
SELECT id, key, cycle, text, state, attempts, last_number, result, published_at IS NOT NULL, decided_at
FROM work WHERE key = :key ORDER BY cycle

-- name: in_batch
SELECT 1 FROM batch_item WHERE batch = :batch AND work = :work

-- name: repoint
UPDATE batch_item SET work = :next,
    ready = coalesce((SELECT 1 FROM work AS w WHERE w.id = :next AND w.state = 'ready' {share_work}), 0)
WHERE batch = :batch AND work = :work
RETURNING seq

-- name: forget_workers
DELETE FROM worker WHERE seen_at < {now} - :age AND kind = 'process'
    AND NOT EXISTS (SELECT 1 FROM attempt WHERE attempt.worker = worker.id)

-- name: add_agent_claim
INSERT INTO agent_claim (session, agent, attempt, task, receipts, receipts_to, assigned)
VALUES (:session, :agent, :attempt, :task, :receipts, :receipts_to, :assigned)
ON CONFLICT (session, agent, attempt) DO UPDATE SET task = excluded.task, receipts = excluded.receipts,
    receipts_to = excluded.receipts_to

-- name: add_session
INSERT INTO session (id, seen_at) VALUES (:session, {now}) ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at
