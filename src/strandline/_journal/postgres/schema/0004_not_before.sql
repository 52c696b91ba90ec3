-- Only an addition: servers of the schema before may be alive meanwhile. They know no lane 4, so a run may ask for a time
-- once all servers are of this version.

-- When a run queues that is to wait for a time (seconds since the epoch); NULL: when it is accepted.
ALTER TABLE runs ADD COLUMN not_before float8;
