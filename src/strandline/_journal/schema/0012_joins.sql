-- Where a run stands that joins another one ('pending', 'applied' or 'became_next_run'; NULL: it is to join none), and the
-- run that it joins, by its id. A pending one waits, an applied one is running; neither is ever claimed.
ALTER TABLE runs ADD COLUMN joins TEXT;
ALTER TABLE runs ADD COLUMN host TEXT;

CREATE INDEX runs_joining ON runs (session) WHERE joins IS NOT NULL AND ended_at IS NULL;

-- The queue of a session, in order. It has all that the place of a run in it needs.
DROP INDEX runs_waiting;
CREATE INDEX runs_waiting ON runs (session, lane, urgency, seq, joins) WHERE status = 'queued';
