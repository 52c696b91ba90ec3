-- A run that has ended and has a fence is held: its session waits for a thread of it that still works.
-- timeout_s counts from started_at; at queue_deadline the run waits no longer; discarded is as on its row of history.
ALTER TABLE runs ADD COLUMN timeout_s REAL;
ALTER TABLE runs ADD COLUMN queue_deadline REAL;
ALTER TABLE runs ADD COLUMN discarded INTEGER NOT NULL DEFAULT 0;

-- The highest sequence of a run that was forgotten while its row of history stayed; no later run may have it.
INSERT INTO meta VALUES ('pruned', -1);
