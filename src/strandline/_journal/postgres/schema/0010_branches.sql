-- Histories that continue from an earlier message, and crashed runs that a person takes up. Only additions: servers of the
-- schema before may be alive meanwhile, and show superseded messages like others.

ALTER TABLE sessions
    ADD COLUMN branch bigint,      -- the message with which its last branch begins; NULL: its history is one line
    ADD COLUMN unresolved bigint;  -- the run at the end of history of which a tool's outcome is unknown; keeps its `staged`

-- Messages from `start` on continue those before `upto` in the branch that begins with `parent` (0: the first one).
-- A branch ends where the next one begins.
CREATE TABLE branches (
    session bigint NOT NULL,
    start bigint NOT NULL,
    parent bigint NOT NULL,
    upto bigint NOT NULL,
    PRIMARY KEY (session, start)
);

CREATE FUNCTION drop_staged() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM staged USING gone WHERE staged.run = gone.seq AND gone.status = 'failed';
    RETURN NULL;
END $$;
CREATE TRIGGER staged_of_run_gone AFTER DELETE ON runs REFERENCING OLD TABLE AS gone FOR EACH STATEMENT
    EXECUTE FUNCTION drop_staged();
