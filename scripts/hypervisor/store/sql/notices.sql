-- name: pending
SELECT 'claim:' || c.attempt AS what, c.task AS name, a.outcome AS outcome, a.detail AS detail, a.counted AS counted,
    w.state AS state, a.ended_at AS ended_at, 0 AS run
FROM agent_claim AS c JOIN attempt AS a ON a.id = c.attempt JOIN work AS w ON w.id = a.work
LEFT JOIN delivery AS d ON d.session = c.session AND d.what = 'claim:' || c.attempt
WHERE c.session = :session AND c.assigned = 0 AND a.ended_at IS NOT NULL
    AND (c.agent <> 'main' OR c.left_open = 1) AND (d.state IS NULL OR d.state = 'lost')
UNION ALL
SELECT 'agent:' || s.agent, s.agent, 'left', '', 0, '', s.ended_at, 0
FROM worker_slot AS s LEFT JOIN delivery AS d ON d.session = s.session AND d.what = 'agent:' || s.agent
WHERE s.session = :session AND s.ended_at IS NOT NULL AND s.started_at IS NOT NULL
    AND (d.state IS NULL OR d.state = 'lost')
    AND NOT EXISTS (SELECT 1 FROM agent_claim AS c WHERE c.session = s.session AND c.agent = s.agent)
UNION ALL
SELECT 'run:' || r.id, b.name, 'run', r.came_to, 0, '', r.ended_at, r.id
FROM background_run AS r JOIN batch AS b ON b.id = r.batch
LEFT JOIN delivery AS d ON d.session = r.session AND d.what = 'run:' || r.id
WHERE r.session = :session AND r.ended_at IS NOT NULL AND (d.state IS NULL OR d.state = 'lost')
ORDER BY ended_at, what

-- name: run_items
SELECT w.text, w.state, w.result
FROM background_run AS r JOIN batch_item AS i ON i.batch = r.batch JOIN work AS w ON w.id = i.work
WHERE r.id = :run AND w.decided_at >= r.began_at
ORDER BY CASE WHEN w.state = 'success' THEN 1 ELSE 0 END, i.seq LIMIT :limit

-- name: offer
INSERT INTO delivery (session, what, state, mark, event, prompt, place, offered_at)
VALUES (:session, :what, 'offered', :mark, :event, :prompt, :place, {now})
ON CONFLICT (session, what) DO UPDATE SET state = 'offered', mark = excluded.mark, event = excluded.event,
    prompt = excluded.prompt, place = excluded.place, offered_at = excluded.offered_at
    WHERE delivery.state = 'lost'
RETURNING what

-- name: offered
SELECT mark, event, prompt, place, {now} - min(offered_at) FROM delivery
WHERE session = :session AND state = 'offered' GROUP BY mark, event, prompt, place

-- name: told
UPDATE delivery SET state = 'told' WHERE session = :session AND mark = :mark AND state = 'offered'

-- name: lost
UPDATE delivery SET losses = losses + :counted,
    state = CASE WHEN losses + :counted >= :most THEN 'dropped' ELSE 'lost' END
WHERE session = :session AND mark = :mark AND state = 'offered'

-- name: moved
UPDATE delivery SET event = :event, prompt = :prompt WHERE session = :session AND mark = :mark AND state = 'offered'
