-- name: renew
UPDATE attempt SET lease_until = {lease_now} + :lease
WHERE ended_at IS NULL AND id IN (SELECT attempt FROM agent_claim WHERE session = :session AND agent = :agent)

-- name: heard
UPDATE worker SET seen_at = {now} WHERE session = :session AND session <> '' AND agent = :agent

-- name: keep_slot
UPDATE worker_slot SET until = {lease_now} + :lease
WHERE session = :session AND agent = :agent AND started_at IS NOT NULL AND ended_at IS NULL
