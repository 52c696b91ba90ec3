-- Where a run stands that joins another one ('pending', 'applied' or 'became_next_run'; NULL: it is to join none), and the
-- run that it joins, by its id. Only additions: a server of the schema before takes a pending one for a run that waits.
ALTER TABLE runs ADD COLUMN IF NOT EXISTS joins text COLLATE "C", ADD COLUMN IF NOT EXISTS host text COLLATE "C";
