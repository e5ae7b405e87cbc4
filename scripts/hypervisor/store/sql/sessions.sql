-- name: touch_session
INSERT INTO session (id, seen_at) VALUES (:session, {now}) ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at

-- name: session
SELECT transcript, blocks, went_on FROM session WHERE id = :session

-- name: set_transcript
INSERT INTO session (id, transcript, seen_at) VALUES (:session, :transcript, {now})
ON CONFLICT (id) DO UPDATE SET transcript = excluded.transcript, seen_at = excluded.seen_at

-- name: set_blocks
UPDATE session SET blocks = :blocks WHERE id = :session

-- name: set_went_on
UPDATE session SET went_on = :went_on WHERE id = :session AND went_on <> :went_on RETURNING id

-- name: say_once
INSERT INTO said (session, what) VALUES (:session, :what) ON CONFLICT (session, what) DO NOTHING RETURNING what

-- name: open_of_session
SELECT c.session, c.agent, c.task, c.receipts, c.receipts_to, c.assigned, c.left_open,
    a.id, a.number, a.worker, a.lock, a.outcome, a.detail, w.id, w.key, w.cycle, w.text, w.state, w.result
FROM agent_claim AS c JOIN attempt AS a ON a.id = c.attempt JOIN work AS w ON w.id = a.work
WHERE c.session = :session AND a.ended_at IS NULL ORDER BY a.id

-- name: open_of_agent
SELECT c.session, c.agent, c.task, c.receipts, c.receipts_to, c.assigned, c.left_open,
    a.id, a.number, a.worker, a.lock, a.outcome, a.detail, w.id, w.key, w.cycle, w.text, w.state, w.result
FROM agent_claim AS c JOIN attempt AS a ON a.id = c.attempt JOIN work AS w ON w.id = a.work
WHERE c.session = :session AND c.agent = :agent AND a.ended_at IS NULL ORDER BY a.id

-- name: lost_of_agent
SELECT c.session, c.agent, c.task, c.receipts, c.receipts_to, c.assigned, c.left_open,
    a.id, a.number, a.worker, a.lock, a.outcome, a.detail, w.id, w.key, w.cycle, w.text, w.state, w.result
FROM agent_claim AS c JOIN attempt AS a ON a.id = c.attempt JOIN work AS w ON w.id = a.work
WHERE c.session = :session AND c.agent = :agent AND c.left_open = 0 AND a.outcome = 'revoked'
    AND (c.agent = 'main' OR NOT EXISTS (
        SELECT 1 FROM agent_claim AS n WHERE n.session = c.session AND n.agent = c.agent AND n.attempt > c.attempt))
ORDER BY a.id

-- name: claim_of_attempt
SELECT c.session, c.agent, c.task, c.receipts, c.receipts_to, c.assigned, c.left_open,
    a.id, a.number, a.worker, a.lock, a.outcome, a.detail, w.id, w.key, w.cycle, w.text, w.state, w.result
FROM agent_claim AS c JOIN attempt AS a ON a.id = c.attempt JOIN work AS w ON w.id = a.work
WHERE c.session = :session AND c.agent = :agent AND c.attempt = :attempt

-- name: left_open
UPDATE agent_claim SET left_open = 1 WHERE session = :session AND attempt IN {ids}

-- name: attempts_of_agent
SELECT attempt FROM agent_claim WHERE session = :session AND agent = :agent AND assigned = 0

-- name: unassign
DELETE FROM agent_claim WHERE session = :session AND (agent = :agent OR :agent = '') AND assigned = 1

-- name: workers
SELECT count(*) FROM worker_slot
WHERE session = :session AND ended_at IS NULL AND until BETWEEN {lease_now} AND {lease_now} + :longest

-- name: asked
SELECT 1 FROM worker_slot WHERE session = :session AND use = :use AND agent = ''

-- name: ask
INSERT INTO worker_slot (session, use, agent, until) VALUES (:session, :use, '', {lease_now} + :patience)

-- name: withdraw
DELETE FROM worker_slot WHERE session = :session AND use = :use AND agent = ''

-- name: slot_of_agent
SELECT id, ended_at IS NOT NULL FROM worker_slot WHERE session = :session AND agent = :agent

-- name: next_request
SELECT id FROM worker_slot
WHERE session = :session AND agent = '' AND until BETWEEN {lease_now} AND {lease_now} + :longest
ORDER BY CASE WHEN use = :use THEN 0 ELSE 1 END, id LIMIT 1

-- name: give_slot
UPDATE worker_slot SET agent = :agent, background = :background, until = {lease_now} + :lease, started_at = {now}
WHERE id = :slot

-- name: add_slot
INSERT INTO worker_slot (session, use, agent, background, until, started_at)
VALUES (:session, :use, :agent, :background, {lease_now} + :lease, {now})

-- name: reopen_slot
UPDATE worker_slot SET until = {lease_now} + :lease, started_at = coalesce(started_at, {now}), ended_at = NULL,
    background = CASE WHEN :background = 1 THEN 1 ELSE background END
WHERE id = :slot

-- name: any_slot
SELECT 1 FROM worker_slot WHERE session = :session LIMIT 1

-- name: end_slot
UPDATE worker_slot SET ended_at = {now} WHERE id = :slot AND ended_at IS NULL AND started_at IS NOT NULL RETURNING id

-- name: add_ended
INSERT INTO worker_slot (session, use, agent, until, ended_at) VALUES (:session, '', :agent, 0, {now})

-- name: running_agents
SELECT agent FROM worker_slot
WHERE session = :session AND agent <> '' AND ended_at IS NULL AND until BETWEEN {lease_now} AND {lease_now} + :longest
ORDER BY id

-- name: background_agents
SELECT agent FROM worker_slot WHERE session = :session AND background = 1 AND ended_at IS NULL ORDER BY id

-- name: free_slots
DELETE FROM worker_slot WHERE session = :session AND ended_at IS NULL

-- name: begin_run
INSERT INTO background_run (session, batch, host, boot, pid_namespace, pid, process_start, began_at)
VALUES (:session, :batch, :host, :boot, :pid_namespace, :pid, :process_start, {now}) RETURNING id

-- name: end_run
UPDATE background_run SET ended_at = {now}, came_to = :came_to WHERE id = :run AND ended_at IS NULL RETURNING id

-- name: open_runs
SELECT r.id, b.name, r.host, r.boot, r.pid_namespace, r.pid, r.process_start,
    {now} - coalesce((SELECT max(s.updated_at) FROM spend_batch AS p JOIN spend AS s ON s.run = p.run
        WHERE p.batch = b.name AND s.host = r.host AND s.updated_at > r.began_at), r.began_at)
FROM background_run AS r JOIN batch AS b ON b.id = r.batch
WHERE r.session = :session AND r.ended_at IS NULL ORDER BY r.id

-- name: forget_said
DELETE FROM said WHERE session = :session

-- name: unseen_sessions
SELECT id FROM session AS s WHERE s.seen_at < {now} - :age
    AND NOT EXISTS (SELECT 1 FROM agent_claim AS c JOIN attempt AS a ON a.id = c.attempt
        WHERE c.session = s.id AND a.ended_at IS NULL)
    AND NOT EXISTS (SELECT 1 FROM background_run AS r WHERE r.session = s.id AND r.ended_at IS NULL)

-- name: forget_session
DELETE FROM session WHERE id = :session

-- name: forget_claims
DELETE FROM agent_claim WHERE session = :session

-- name: forget_slots
DELETE FROM worker_slot WHERE session = :session

-- name: forget_runs
DELETE FROM background_run WHERE session = :session

-- name: forget_deliveries
DELETE FROM delivery WHERE session = :session

-- name: anything
SELECT 1 FROM agent_claim AS c JOIN attempt AS a ON a.id = c.attempt
WHERE c.session = :session AND (a.ended_at IS NULL
    -- A worker that lost its claim, and whose end is not known, is still to be stopped.
    OR (a.outcome = 'revoked' AND c.left_open = 0 AND NOT EXISTS (
        SELECT 1 FROM worker_slot AS s
        WHERE s.session = c.session AND s.agent = c.agent AND s.ended_at IS NOT NULL)))
UNION ALL
SELECT 1 FROM worker_slot WHERE session = :session AND ended_at IS NULL AND (started_at IS NOT NULL OR until > {lease_now})
UNION ALL
SELECT 1 FROM background_run WHERE session = :session AND ended_at IS NULL
LIMIT 1

-- name: known
SELECT 1 FROM session WHERE id = :session
UNION ALL
SELECT 1 FROM agent_claim WHERE session = :session
UNION ALL
SELECT 1 FROM worker_slot WHERE session = :session
UNION ALL
SELECT 1 FROM background_run WHERE session = :session
LIMIT 1
