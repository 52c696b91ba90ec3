-- Only an addition: servers of the schema before may be alive meanwhile, and fire nothing. A session that one of them
-- deletes leaves its schedules, which belong to nothing then, and never fire.

-- Schedules of sessions: what they do, and when next (seconds since the epoch; NULL: never, or paused). It moves in the
-- transaction that accepts their run. The principal is that of the session.
CREATE TABLE schedules (
    id text COLLATE "C" PRIMARY KEY,
    session bigint NOT NULL,
    principal text COLLATE "C" NOT NULL,
    next_at float8,
    spec bytea NOT NULL,
    state bytea NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX schedules_of_session ON schedules (session);
CREATE INDEX schedules_of_principal ON schedules (principal, id);
