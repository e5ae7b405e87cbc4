-- name: add
INSERT INTO event (at, kind, batch, work, attempt, detail)
VALUES ({now}, :kind, :batch, :work, :attempt, :detail)

-- name: last
SELECT coalesce(max(id), 0) FROM event WHERE {settled}

-- name: since
SELECT e.id, e.at, e.kind, e.batch, e.work, e.attempt, e.detail, w.key, w.text, w.state, a.number, k.name, k.session,
    k.agent, b.name, a.detail
FROM event AS e LEFT JOIN work AS w ON w.id = e.work LEFT JOIN attempt AS a ON a.id = e.attempt
LEFT JOIN worker AS k ON k.id = a.worker LEFT JOIN batch AS b ON b.id = e.batch
WHERE e.id > :after AND {settled} ORDER BY e.id LIMIT :limit

-- name: of_batch
SELECT e.id, e.at, e.kind, e.batch, e.work, e.attempt, e.detail, w.key, w.text, w.state, a.number, k.name, k.session,
    k.agent, b.name, a.detail
FROM event AS e LEFT JOIN work AS w ON w.id = e.work LEFT JOIN attempt AS a ON a.id = e.attempt
LEFT JOIN worker AS k ON k.id = a.worker LEFT JOIN batch AS b ON b.id = e.batch
WHERE e.batch = :batch AND e.id > :after AND {settled} ORDER BY e.id LIMIT :limit

-- name: about_batch
SELECT e.id, e.at, e.kind, e.batch, e.work, e.attempt, e.detail, w.key, w.text, w.state, a.number, k.name, k.session,
    k.agent, b.name, a.detail
FROM event AS e LEFT JOIN work AS w ON w.id = e.work LEFT JOIN attempt AS a ON a.id = e.attempt
LEFT JOIN worker AS k ON k.id = a.worker LEFT JOIN batch AS b ON b.id = e.batch
WHERE e.id > :after AND {settled}
    AND (e.batch = :batch OR EXISTS (SELECT 1 FROM batch_item AS i WHERE i.work = e.work AND i.batch = :batch))
ORDER BY e.id LIMIT :limit
