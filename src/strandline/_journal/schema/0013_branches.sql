-- A session's history may continue from an earlier message: what came after that is superseded. `branch` is the message with
-- which its last branch begins, NULL if its history is one line. `unresolved` is the sequence of the run at the end of
-- its history if a person may find out what a tool of it did: that run's rows in `staged` stay so long.
ALTER TABLE sessions ADD COLUMN branch INTEGER;
ALTER TABLE sessions ADD COLUMN unresolved INTEGER;

-- Messages from `start` on continue those before `upto` in the branch that begins with `parent` (0: the first one).
-- A branch ends where the next one begins.
CREATE TABLE branches (
    session INTEGER NOT NULL,
    start INTEGER NOT NULL,
    parent INTEGER NOT NULL,
    upto INTEGER NOT NULL,
    PRIMARY KEY (session, start)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER staged_of_run_gone AFTER DELETE ON runs WHEN OLD.status = 'failed' BEGIN
    DELETE FROM staged WHERE run = OLD.seq;
END;
