-- A session may begin with a copy of another one's history. A row that was copied keeps the checksum that it had: `origin`
-- is the number that all checksums of its first session begin with. `copied_run` is the run that had left it, NULL if that
-- was deleted; its `run` is -2, or -3 if that run asked a person.
ALTER TABLE history ADD COLUMN origin INTEGER;
ALTER TABLE history ADD COLUMN copied_run TEXT;

-- The sessions that began so: the number of the session that each was copied from, and a record of it.
CREATE TABLE forks (
    session INTEGER PRIMARY KEY,
    source INTEGER NOT NULL,
    record BLOB NOT NULL
) STRICT;
CREATE INDEX forks_of ON forks (source);
