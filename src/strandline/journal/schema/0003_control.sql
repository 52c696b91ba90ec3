-- Somebody asked for the end of a run that executes: it can only end as cancelled, with discard also discarded.
ALTER TABLE runs ADD COLUMN cancel_requested INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN discard INTEGER NOT NULL DEFAULT 0;

-- What an idempotency key of a session stands for: the run, and a (sealed) SHA-256 of the request that asked for it.
ALTER TABLE runs ADD COLUMN key TEXT;
ALTER TABLE runs ADD COLUMN fingerprint BLOB;
CREATE UNIQUE INDEX runs_keyed ON runs (session, key) WHERE key IS NOT NULL;

-- What the run was to do to a busy session, as its name; NULL: wait.
ALTER TABLE runs ADD COLUMN if_busy TEXT;
