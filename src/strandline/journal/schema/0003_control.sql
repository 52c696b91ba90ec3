-- Somebody asked for the end of a run that executes: it can only end as cancelled, with discard also discarded.
ALTER TABLE runs ADD COLUMN cancel_requested INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN discard INTEGER NOT NULL DEFAULT 0;
