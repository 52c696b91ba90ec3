-- Sessions that begin with a copy of another one's history. Only additions: servers of the schema before may be alive
-- meanwhile, and no session is forked while one is. A row that was copied keeps the checksum that it had.
ALTER TABLE history
    ADD COLUMN IF NOT EXISTS origin bigint,     -- what all checksums of its first session begin with; NULL: this one
    ADD COLUMN IF NOT EXISTS copied_run text COLLATE "C";  -- the run that had left it; its `run` is -2, -3 if that asked

-- The sessions that began so: the number of the session that each was copied from, and a record of it.
CREATE TABLE forks (session bigint PRIMARY KEY, source bigint NOT NULL, record bytea NOT NULL);
CREATE INDEX forks_of ON forks (source);
