-- The schema, version 1. Times ending in _at are milliseconds since the epoch, for people;
-- lease_until is compared with the lease clock alone (store/base.py). JSON is kept as text.

-- A run over a set of items.
CREATE TABLE batch (
    id {serial},
    name TEXT NOT NULL UNIQUE,
    folder TEXT NOT NULL,
    created_at {int} NOT NULL,
    -- What all its workers must agree on: base folder, queue file, separator, skipped items ...
    options TEXT NOT NULL,
    -- Bytes of the queue file that were taken in, and the last bytes before that place.
    queue_offset {int} NOT NULL DEFAULT 0,
    queue_tail {blob},
    -- Lines that named an item which another line had named before.
    duplicates {int} NOT NULL DEFAULT 0,
    drain_at {int},
    finished_at {int}
) {strict};

-- One row for each item and cycle: an item that is reopened after its result begins the next cycle.
CREATE TABLE work (
    id {serial},
    key TEXT NOT NULL,
    cycle {int} NOT NULL,
    -- The queue line, verbatim; for a task its path below the project root.
    text TEXT NOT NULL,
    -- Not IN (...): that costs a temporary table a statement.
    state TEXT NOT NULL CHECK (state = 'ready' OR state = 'running' OR state = 'success' OR state = 'blocked'
        OR state = 'failed' OR state = 'skipped'),
    not_before {int} NOT NULL DEFAULT 0,
    -- Ended attempts of this cycle that count against the limit.
    attempts {int} NOT NULL DEFAULT 0,
    -- The number of the latest attempt; goes on over cycles, so that no number names two attempts.
    last_number {int} NOT NULL DEFAULT 0,
    decided_at {int},
    -- Set once the result's edit of the task file and its result file are written.
    published_at {int},
    -- Last, as it may be long: what stands behind a long column is slow to read.
    result TEXT,
    CHECK ((decided_at IS NULL) = (state = 'ready' OR state = 'running')),
    CHECK ((decided_at IS NULL) = (result IS NULL)),
    UNIQUE (key, cycle)
) {strict};
CREATE INDEX work_unpublished ON work (id) WHERE decided_at IS NOT NULL AND published_at IS NULL;

CREATE TABLE batch_item (
    batch {int} NOT NULL REFERENCES batch (id),
    seq {int} NOT NULL,
    work {int} NOT NULL REFERENCES work (id),
    -- 0 critical, 1 high, 2 medium, 3 low
    priority {int} NOT NULL DEFAULT 2,
    -- 1 exactly while the work is ready: what keeps claiming at one price for any length of the queue.
    ready {int} NOT NULL DEFAULT 1,
    PRIMARY KEY (batch, seq),
    UNIQUE (work, batch)
) {without_rowid};
CREATE INDEX batch_item_ready ON batch_item (batch, priority, seq) WHERE ready = 1;

-- What a task's file said of how it is judged when a run of the batch took it; JSON. It holds for this cycle.
CREATE TABLE task_terms (
    batch {int} NOT NULL REFERENCES batch (id),
    work {int} NOT NULL REFERENCES work (id),
    terms TEXT NOT NULL,
    PRIMARY KEY (batch, work)
) {without_rowid};

-- One claim, from its start to its end. Its id is the fencing token: unique, rising, never reused.
CREATE TABLE attempt (
    id {serial},
    work {int} NOT NULL REFERENCES work (id),
    -- For people and git refs; see work.last_number.
    number {int} NOT NULL,
    worker TEXT NOT NULL,
    batch {int},
    claimed_at {int} NOT NULL,
    lease_until {int} NOT NULL,
    ended_at {int},
    -- success, blocked, failed, skipped (the accepted result); again (given back by its worker);
    -- revoked (taken away from it)
    outcome TEXT,
    detail TEXT,
    counted {int},
    -- What the claim changed in the task file, to be restored; restored = 1 once it is.
    revert TEXT,
    restored {int} NOT NULL DEFAULT 0,
    -- The name of the lock directory that the claim makes, where the folder has any.
    lock TEXT,
    -- What works on it: claude, gemini, exec, triage ...
    runner TEXT,
    tokens {int},
    cost_usd {real},
    log TEXT,
    UNIQUE (work, number)
) {strict};
CREATE UNIQUE INDEX one_open_attempt ON attempt (work) WHERE ended_at IS NULL;
CREATE INDEX attempt_open_worker ON attempt (worker) WHERE ended_at IS NULL;
-- What crashed claims left in task files: few.
CREATE INDEX attempt_abandoned ON attempt (work)
    WHERE revert IS NOT NULL AND restored = 0 AND outcome IN ('again', 'revoked');
CREATE INDEX attempt_lock ON attempt (lock) WHERE lock IS NOT NULL;

-- The end of what an attempt has printed, where its log lies on another host, or is a transcript of the client's.
CREATE TABLE log_tail (
    attempt {int} PRIMARY KEY,
    -- Where the whole log lies on that host, without the ending.
    path TEXT NOT NULL,
    out TEXT NOT NULL,
    err TEXT NOT NULL,
    -- 1: there is more before them.
    cut {int} NOT NULL
) {strict};

-- Whoever holds claims: a process, or an agent inside a client.
CREATE TABLE worker (
    id TEXT PRIMARY KEY,
    -- process: its death is seen at once on its host; session: an agent, of which its client's death and
    -- its silence are seen; lease: only its silence is seen.
    kind TEXT NOT NULL CHECK (kind IN ('process', 'session', 'lease')),
    name TEXT NOT NULL,
    host TEXT NOT NULL,
    boot TEXT NOT NULL,
    pid_namespace TEXT NOT NULL,
    pid {int} NOT NULL,
    process_start TEXT NOT NULL,
    session TEXT NOT NULL DEFAULT '',
    agent TEXT NOT NULL DEFAULT '',
    started_at {int} NOT NULL,
    seen_at {int} NOT NULL
) {strict};
CREATE INDEX worker_session ON worker (session, agent) WHERE session <> '';

-- What happened, in the transaction that made it happen.
CREATE TABLE event (
    id {serial},
    at {int} NOT NULL,
    kind TEXT NOT NULL,
    -- Set for events of a run; transitions of work name their work and attempt.
    batch {int},
    work {int},
    attempt {int},
    detail TEXT
    {event_transaction}
) {strict};
CREATE INDEX event_batch ON event (batch, id) WHERE batch IS NOT NULL;

-- A question of an agent to a person. Its task is parked: the attempt has ended at no cost, and until the answer
-- the work stays ready, and is not claimed.
CREATE TABLE question (
    id {serial},
    work {int} NOT NULL REFERENCES work (id),
    -- The attempt that asked.
    attempt {int} NOT NULL REFERENCES attempt (id),
    batch {int},
    -- The task's id, and who asked, for people.
    task TEXT NOT NULL,
    asker TEXT NOT NULL,
    text TEXT NOT NULL,
    -- Answers to choose from; a JSON array.
    choices TEXT NOT NULL,
    -- Where the work so far is, and the client's session that can go on with it; JSON.
    place TEXT NOT NULL,
    asked_at {int} NOT NULL,
    answer TEXT,
    answered_by TEXT,
    answered_at {int}
) {strict};
CREATE INDEX question_work ON question (work);
CREATE INDEX question_open ON question (id) WHERE answered_at IS NULL;

CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) {strict};

-- What one run of a coordinator has spent so far, and which session started it. Replaced every second while the
-- run goes on, so it is the coordinator's sign of life, too.
CREATE TABLE spend (
    -- worker.id of the coordinator.
    run TEXT PRIMARY KEY,
    -- Its machine, and that machine's zone as the coordinator saw it last; '' where it was not seen yet.
    host TEXT NOT NULL DEFAULT '',
    zone TEXT NOT NULL DEFAULT '',
    session TEXT NOT NULL DEFAULT '',
    tokens {int} NOT NULL DEFAULT 0,
    usd {real} NOT NULL DEFAULT 0,
    seconds {real} NOT NULL DEFAULT 0,
    attempts {int} NOT NULL DEFAULT 0,
    updated_at {int} NOT NULL
) {strict};
CREATE INDEX spend_session ON spend (session) WHERE session <> '';
CREATE INDEX spend_updated ON spend (updated_at);

-- A batch that a run's spending counts against: its own, and those within whose agents it was started.
CREATE TABLE spend_batch (
    batch TEXT NOT NULL,
    run TEXT NOT NULL REFERENCES spend (run),
    PRIMARY KEY (batch, run)
) {without_rowid};

-- A commit that a run puts on a branch. Written before git moves the branch, and marked afterwards: where a
-- batch's branch is, the store says, and not a ref that others can write.
CREATE TABLE merge (
    id {serial},
    batch {int} NOT NULL REFERENCES batch (id),
    -- 0: it is a merge on the batch's own branch; 1: the user's branch is moved to it; 2: the remote's.
    is_home {int} NOT NULL,
    -- Whose work it merges, where it is that of an attempt.
    work {int},
    attempt {int},
    commit_id TEXT NOT NULL,
    -- 0: about to be moved to; 1: the branch was moved to it; 2: and the batch's branch has been deleted since.
    moved {int} NOT NULL DEFAULT 0,
    at {int} NOT NULL
) {strict};
CREATE INDEX merge_work ON merge (work, batch) WHERE work IS NOT NULL;
CREATE INDEX merge_commit ON merge (commit_id);
CREATE INDEX merge_batch ON merge (batch, id) WHERE is_home = 0;

-- A right that one worker has at a time, such as merging to a branch of the remote.
CREATE TABLE lease (
    name TEXT PRIMARY KEY,
    -- worker.id
    holder TEXT NOT NULL,
    -- Raised with each change of hands: it fences what an earlier holder still writes.
    token {int} NOT NULL DEFAULT 1,
    lease_until {int} NOT NULL
) {strict};

-- What agents share with each other, by branch. Its words are indexed in finding_words (schema_<dialect>.sql).
CREATE TABLE finding (
    id {serial},
    at {int} NOT NULL,
    branch TEXT NOT NULL,
    -- The task's id and the batch's name, for people; '' where none is known.
    task TEXT NOT NULL,
    batch TEXT NOT NULL,
    author TEXT NOT NULL,
    text TEXT NOT NULL,
    -- SHA-256 of the text: a text is too long for an index.
    digest TEXT NOT NULL,
    UNIQUE (branch, task, digest)
) {strict};
CREATE INDEX finding_batch ON finding (batch);

-- What people and agents say of a task type.
CREATE TABLE lesson (
    type TEXT PRIMARY KEY,
    at {int} NOT NULL,
    author TEXT NOT NULL,
    notes TEXT NOT NULL,
    benefit {real},
    cpu {real},
    ram_mb {real}
) {strict};

-- One attempt of a run as the learner counts it; its outcome, end and tokens are the attempt's.
CREATE TABLE sample (
    attempt {int} PRIMARY KEY REFERENCES attempt (id),
    type TEXT NOT NULL,
    pattern TEXT NOT NULL,
    -- How many of its class ran while it did; 0 where the number changed under it.
    at_once {int} NOT NULL,
    seconds {real} NOT NULL,
    refused {int} NOT NULL,
    cpu_seconds {real},
    ram_mb {real}
) {strict};

-- A batch that is cut into chunks (docs/chunks.md).
CREATE TABLE chunk_plan (
    batch {int} PRIMARY KEY REFERENCES batch (id),
    -- Which items are in which chunk, and how they were cut; JSON. Raised by 1 with each change.
    plan TEXT NOT NULL,
    version {int} NOT NULL DEFAULT 1,
    -- The hash of the plan's file as it was when a new plan was kept: such a file is outdated, not edited.
    outdated TEXT NOT NULL DEFAULT '',
    -- What the last `chunk run` was asked for; JSON.
    run TEXT
) {strict};

-- An item of a chunked batch, with the fields of its record.
CREATE TABLE chunk_item (
    batch {int} NOT NULL REFERENCES batch (id),
    seq {int} NOT NULL,
    item TEXT NOT NULL,
    digest TEXT NOT NULL,
    fields TEXT NOT NULL,
    PRIMARY KEY (batch, seq),
    UNIQUE (batch, item)
) {without_rowid};

-- A chunk that has begun: its items never change any more.
CREATE TABLE chunk (
    batch {int} NOT NULL REFERENCES batch (id),
    name TEXT NOT NULL,
    items TEXT NOT NULL,
    -- Raised by 1 when a person decides that it is done again: notes of before count no more.
    revision {int} NOT NULL DEFAULT 1,
    begun_at {int} NOT NULL,
    PRIMARY KEY (batch, name)
) {without_rowid};

-- Chunks that run at one time, by one set of criteria.
CREATE TABLE wave (
    batch {int} NOT NULL REFERENCES batch (id),
    number {int} NOT NULL,
    chunks TEXT NOT NULL,
    criteria TEXT NOT NULL,
    -- Whether a person is asked once it is done, and when the event said so.
    checkpoint {int} NOT NULL,
    opened_at {int},
    begun_at {int} NOT NULL,
    PRIMARY KEY (batch, number)
) {without_rowid};

-- What a person decided of a wave; numbered within it, as a stop may be lifted.
CREATE TABLE decision (
    batch {int} NOT NULL,
    wave {int} NOT NULL,
    number {int} NOT NULL,
    verdict TEXT NOT NULL CHECK (verdict IN ('approve', 'revise', 'stop')),
    decided_by TEXT NOT NULL,
    decided_at {int} NOT NULL,
    criteria TEXT NOT NULL,
    chunks TEXT NOT NULL,
    midway {int} NOT NULL,
    PRIMARY KEY (batch, wave, number),
    FOREIGN KEY (batch, wave) REFERENCES wave (batch, number)
) {without_rowid};

-- What a worker made of an item of its chunk: one row for each revision of the chunk.
CREATE TABLE note (
    id {serial},
    batch {int} NOT NULL,
    chunk TEXT NOT NULL,
    revision {int} NOT NULL,
    item TEXT NOT NULL,
    category TEXT NOT NULL,
    rationale TEXT NOT NULL,
    noted_at {int} NOT NULL,
    UNIQUE (batch, chunk, revision, item)
) {strict};

-- A bulk action that waits for a person's word: the tools that act, and the task that it is done for.
CREATE TABLE approval (
    -- The folder of the chunked batch; its waves and decisions are in this store, or in one in that folder.
    folder TEXT PRIMARY KEY,
    task TEXT NOT NULL,
    patterns TEXT NOT NULL,
    added_at {int} NOT NULL
) {strict};

-- An item that leaves receipts in a task's body, and what is known of it.
CREATE TABLE receipt_item (
    -- work.key of the task.
    task TEXT NOT NULL,
    item TEXT NOT NULL,
    -- begun: about to be done; done: it has its receipt, and gets no other; failed: it has one that says so.
    state TEXT NOT NULL CHECK (state IN ('begun', 'done', 'failed')),
    line TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (task, item)
) {without_rowid};

-- One line of the receipts in a task's body.
CREATE TABLE receipt (
    id {serial},
    task TEXT NOT NULL,
    -- The task's path below the project root, as it was then.
    path TEXT NOT NULL,
    item TEXT NOT NULL,
    line TEXT NOT NULL,
    at {int} NOT NULL,
    -- 1 once the line is in the body.
    written {int} NOT NULL DEFAULT 0
) {strict};
CREATE INDEX receipt_task ON receipt (task, id);
CREATE INDEX receipt_unwritten ON receipt (task) WHERE written = 0;

-- A client's session, from the first claim, worker or run of its agents on.
CREATE TABLE session (
    id TEXT PRIMARY KEY,
    -- The client's transcript of it, '' until a hook has named it.
    transcript TEXT NOT NULL DEFAULT '',
    -- How often in a row the client was kept from stopping.
    blocks {int} NOT NULL DEFAULT 0,
    -- 1 from the moment in which a hook keeps the client from stopping until the session's waker has seen it.
    went_on {int} NOT NULL DEFAULT 0,
    seen_at {int} NOT NULL
) {strict};

-- A claim that an agent of a session works under, and what the client's hooks need to know of its task.
CREATE TABLE agent_claim (
    session TEXT NOT NULL,
    -- 'main' for the session's own thread, '' where the agent is not known.
    agent TEXT NOT NULL,
    attempt {int} NOT NULL REFERENCES attempt (id),
    -- The task's id, for people.
    task TEXT NOT NULL,
    -- Tools whose use leaves a receipt (a JSON array), and the other task that gets it too.
    receipts TEXT NOT NULL,
    receipts_to TEXT NOT NULL,
    -- 1: a coordinator holds the claim for the agent, whose end does not end it.
    assigned {int} NOT NULL DEFAULT 0,
    -- 1: its agent or session ended without ending it, so it was released.
    left_open {int} NOT NULL DEFAULT 0,
    PRIMARY KEY (session, agent, attempt)
) {without_rowid};

-- The place of one worker of a session: taken by the tool call that asks for it, given on to the agent that
-- starts, free when the agent's end is known.
CREATE TABLE worker_slot (
    id {serial},
    session TEXT NOT NULL,
    -- The tool call, '' where there was none.
    use TEXT NOT NULL,
    -- The agent, '' until it has started.
    agent TEXT NOT NULL,
    -- 1: the session's own thread has put the agent into the background.
    background {int} NOT NULL DEFAULT 0,
    -- Until when it counts without another sign of life, by the lease clock.
    until {int} NOT NULL,
    -- NULL for a request, and for an agent of which only the end was heard.
    started_at {int},
    ended_at {int}
) {strict};
CREATE INDEX worker_slot_session ON worker_slot (session);

-- A run that a session has begun in its shell: the session is told of its end.
CREATE TABLE background_run (
    id {serial},
    session TEXT NOT NULL,
    batch {int} NOT NULL REFERENCES batch (id),
    host TEXT NOT NULL,
    boot TEXT NOT NULL,
    pid_namespace TEXT NOT NULL,
    pid {int} NOT NULL,
    process_start TEXT NOT NULL,
    began_at {int} NOT NULL,
    ended_at {int},
    -- How it ended, for people.
    came_to TEXT NOT NULL DEFAULT ''
) {strict};
CREATE INDEX background_run_session ON background_run (session);

-- What a session was told, or is being told: one row for each end (store/notices.py). No row: not told yet.
CREATE TABLE delivery (
    session TEXT NOT NULL,
    -- claim:<attempt>, agent:<agent> or run:<background_run.id>
    what TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('offered', 'told', 'lost', 'dropped')),
    -- Names the message, which may tell of several ends.
    mark TEXT NOT NULL,
    -- The client's event at which it was handed over; 'watch' and 'wait' outside of hooks.
    event TEXT NOT NULL,
    -- The client's name for the prompt it worked on then, and its transcript's length, in bytes.
    prompt TEXT NOT NULL,
    place {int} NOT NULL,
    offered_at {int} NOT NULL,
    -- How often it was handed over and did not arrive.
    losses {int} NOT NULL DEFAULT 0,
    PRIMARY KEY (session, what)
) {without_rowid};
CREATE INDEX delivery_offered ON delivery (session) WHERE state = 'offered';

-- What is said to a session, or asked of it, once.
CREATE TABLE said (
    session TEXT NOT NULL,
    what TEXT NOT NULL,
    PRIMARY KEY (session, what)
) {without_rowid};
