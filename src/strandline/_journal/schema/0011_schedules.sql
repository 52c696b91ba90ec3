-- Schedules of sessions: what they do, and when next (seconds since the epoch; NULL: never, or paused). It moves in the
-- transaction that accepts their run. The principal is that of the session.
CREATE TABLE schedules (
    id TEXT PRIMARY KEY,
    session INTEGER NOT NULL,
    principal TEXT NOT NULL,
    next_at REAL,
    spec BLOB NOT NULL,
    state BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX schedules_of_session ON schedules (session);
CREATE INDEX schedules_of_principal ON schedules (principal, id);
