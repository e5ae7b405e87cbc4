-- name: renew
UPDATE attempt SET lease_until = {lease_now} + :lease
WHERE ended_at IS NULL AND id IN (SELECT attempt FROM agent_claim WHERE session = :session AND agent = :agent)

-- name: heard
UPDATE worker SET seen_at = {now} WHERE session = :session AND session <> '' AND agent = :agent

-- name: keep_slot
UPDATE worker_slot SET until = {lease_now} + :lease
WHERE session = :session AND agent = :agent AND started_at IS NOT NULL AND ended_at IS NULL

-- name: more_to_do
SELECT 1 FROM agent_claim AS c JOIN attempt AS a ON a.id = c.attempt
WHERE c.session = :session AND c.agent = :agent AND (
    (a.ended_at IS NULL AND c.receipts <> '[]')
    OR (c.left_open = 0 AND a.outcome = 'revoked'
        AND (c.agent = 'main' OR NOT EXISTS (
            SELECT 1 FROM agent_claim AS n
            WHERE n.session = c.session AND n.agent = c.agent AND n.attempt > c.attempt))))
LIMIT 1
