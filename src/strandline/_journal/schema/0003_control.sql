-- Somebody asked for the end of a run that executes: it can only end as cancelled, with discard also discarded.
ALTER TABLE runs ADD COLUMN cancel_requested INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN discard INTEGER NOT NULL DEFAULT 0;

-- What an idempotency key of a session stands for: the run, and a (sealed) SHA-256 of the request that asked for it.
ALTER TABLE runs ADD COLUMN key TEXT;
ALTER TABLE runs ADD COLUMN fingerprint BLOB;
CREATE UNIQUE INDEX runs_keyed ON runs (session, key) WHERE key IS NOT NULL;

-- What the run was to do to a busy session, as its name; NULL: wait.
ALTER TABLE runs ADD COLUMN if_busy TEXT;

-- The priority that a waiting run was given since it was accepted; NULL: none.
-- urgency is the priority in lane 3, 2^40 plus the place that was drawn in lane 2, and 0 in all others.
ALTER TABLE runs ADD COLUMN moved INTEGER;

-- While a session is paused, nothing of it is taken. closed_since is since when the time of what waits in it has stood
-- still: since it was paused, or since before, if it was held then; NULL if it is open, or held and was not paused.
ALTER TABLE sessions ADD COLUMN paused INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN closed_since REAL;
