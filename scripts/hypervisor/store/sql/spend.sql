-- name: put
INSERT INTO spend (run, host, zone, session, tokens, usd, seconds, attempts, updated_at)
VALUES (:run, :host, :zone, :session, :tokens, :usd, :seconds, :attempts, {now})
ON CONFLICT (run) DO UPDATE SET zone = excluded.zone, tokens = excluded.tokens, usd = excluded.usd, seconds = excluded.seconds,
    attempts = excluded.attempts, updated_at = excluded.updated_at

-- name: put_batch
INSERT INTO spend_batch (batch, run) VALUES (:batch, :run) ON CONFLICT (batch, run) DO NOTHING

-- name: of_batch
SELECT sum(s.tokens), sum(s.usd), sum(s.seconds), sum(s.attempts)
FROM spend_batch AS b JOIN spend AS s ON s.run = b.run WHERE b.batch = :batch AND s.run <> :run

-- name: of_session
SELECT sum(tokens), sum(usd), sum(seconds), sum(attempts)
FROM spend WHERE session = :session AND session <> '' AND run <> :run

-- name: of_project
SELECT sum(tokens), sum(usd), sum(seconds), sum(attempts)
FROM spend WHERE updated_at > {now} - :age AND run <> :run

-- name: at_work
SELECT count(*) FROM spend AS s JOIN attempt AS a ON a.worker = s.run
WHERE s.session = :session AND s.session <> '' AND s.run <> :run AND a.ended_at IS NULL
