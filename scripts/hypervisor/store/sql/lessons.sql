-- name: add_lesson
INSERT INTO lesson (type, at, author, notes, benefit, cpu, ram_mb)
VALUES (:type, {now}, :author, :notes, :benefit, :cpu, :ram_mb)
ON CONFLICT (type) DO UPDATE SET at = excluded.at, author = excluded.author,
    notes = CASE excluded.notes WHEN '' THEN lesson.notes ELSE excluded.notes END,
    benefit = coalesce(excluded.benefit, lesson.benefit), cpu = coalesce(excluded.cpu, lesson.cpu),
    ram_mb = coalesce(excluded.ram_mb, lesson.ram_mb)

-- name: lesson
SELECT type, at, author, notes, benefit, cpu, ram_mb FROM lesson WHERE type = :type

-- name: lessons
SELECT type, at, author, notes, benefit, cpu, ram_mb FROM lesson ORDER BY type

-- name: add_sample
INSERT INTO sample (attempt, type, pattern, at_once, seconds, refused, cpu_seconds, ram_mb)
VALUES (:attempt, :type, :pattern, :at_once, :seconds, :refused, :cpu_seconds, :ram_mb)
ON CONFLICT (attempt) DO NOTHING

-- name: figures
SELECT type, pattern, at_once, count(*), sum(CASE WHEN outcome IN ('success', 'blocked') THEN 1 ELSE 0 END),
    sum(CASE WHEN outcome = 'success' THEN 1 ELSE 0 END), sum(refused), sum(seconds), coalesce(sum(cpu_seconds), 0.0),
    sum(CASE WHEN cpu_seconds IS NULL THEN 0.0 ELSE seconds END), max(ram_mb), coalesce(sum(tokens), 0), count(tokens)
FROM (
    SELECT s.type, s.pattern, s.at_once, s.seconds, s.refused, s.cpu_seconds, s.ram_mb, a.outcome, a.tokens,
        dense_rank() OVER (PARTITION BY s.type, s.pattern ORDER BY a.batch DESC) AS age
    FROM sample AS s JOIN attempt AS a ON a.id = s.attempt
    WHERE a.ended_at >= {now} - :age
) AS counted
WHERE age <= :batches GROUP BY type, pattern, at_once ORDER BY type, pattern, at_once
