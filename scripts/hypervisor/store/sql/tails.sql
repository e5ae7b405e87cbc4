-- name: keep
INSERT INTO log_tail (attempt, path, out, err, cut) VALUES (:attempt, :path, :out, :err, :cut)
ON CONFLICT (attempt) DO UPDATE SET path = excluded.path, out = excluded.out, err = excluded.err, cut = excluded.cut

-- name: of
SELECT attempt, path, out, err, cut FROM log_tail WHERE attempt IN {ids}

-- name: host
SELECT host FROM worker WHERE id = :worker

-- name: forget
DELETE FROM log_tail WHERE attempt IN (SELECT id FROM attempt WHERE ended_at < {now} - :age) RETURNING attempt
