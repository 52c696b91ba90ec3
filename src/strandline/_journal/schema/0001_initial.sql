-- One conversation of one principal; last is the newest row of its history.
CREATE TABLE sessions (
    no INTEGER PRIMARY KEY,
    last INTEGER,
    principal TEXT NOT NULL,
    session_id TEXT NOT NULL,
    UNIQUE (principal, session_id)
) STRICT;

-- Every accepted run; seq is its sequence, given in the accept's own transaction.
-- urgency is the priority in lane 3 and 0 in all others; fence is NULL unless the run is claimed.
CREATE TABLE runs (
    seq INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL UNIQUE,
    session INTEGER NOT NULL,
    lane INTEGER NOT NULL,
    urgency INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    status TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    fence INTEGER,
    last INTEGER NOT NULL,
    opaque INTEGER NOT NULL,
    input BLOB NOT NULL,
    metadata BLOB,
    created_at REAL NOT NULL,
    started_at REAL,
    ended_at REAL,
    outcome BLOB
) STRICT;

-- Exclusivity: storage itself refuses a second claimed run of a session.
CREATE UNIQUE INDEX runs_claimed ON runs (session) WHERE fence IS NOT NULL;

-- The queue of a session, in order (the sequence is the rowid, which every index ends with).
CREATE INDEX runs_waiting ON runs (session, lane, urgency) WHERE status = 'queued';

-- What an executing run has done so far; gone when it ends.
CREATE TABLE staged (
    run INTEGER NOT NULL,
    no INTEGER NOT NULL,
    fact BLOB NOT NULL,
    PRIMARY KEY (run, no)
) STRICT, WITHOUT ROWID;

-- One row for every run that has ended, with the messages that it left, if any; only ever appended.
-- first is the index of its first message in the session's history, nth its own number in the session (from 1).
--
-- Rows lie in the order of their making and each names the one before it in its session, so that runs of many sessions
-- that end together are written to one place; an index of all rows would be written to in as many places as there are
-- sessions (measured: a third of a run's cost). One row in 64 is in an index, to begin from in the middle.
CREATE TABLE history (
    no INTEGER PRIMARY KEY,
    session INTEGER NOT NULL,
    nth INTEGER NOT NULL,
    first INTEGER NOT NULL,
    count INTEGER NOT NULL,
    previous INTEGER,
    run INTEGER NOT NULL,
    discarded INTEGER NOT NULL DEFAULT 0,
    messages BLOB
) STRICT;

CREATE INDEX history_marks ON history (session, first) WHERE nth % 64 = 0;

-- What a session's agent is rebuilt from, besides its history; no row or NULL: the whole history, no state.
CREATE TABLE agents (
    session INTEGER PRIMARY KEY,
    window BLOB,
    state BLOB
) STRICT;

CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO meta VALUES ('epoch', 0);
