-- A run may have history continue from an earlier place, once it starts (`back`, as JSON; NULL: from its end).
ALTER TABLE runs ADD COLUMN back BLOB;
-- The run that began a branch, by its sequence; NULL: a person did, or it is of an older version.
ALTER TABLE branches ADD COLUMN run INTEGER;
-- A branch without a message is replaced by the next one at the same start: what it had continued. And whether window and
-- state as they were at the place of a branch were not kept any more when it began.
ALTER TABLE branches ADD COLUMN was_parent INTEGER;
ALTER TABLE branches ADD COLUMN was_upto INTEGER;
ALTER TABLE branches ADD COLUMN forgotten INTEGER NOT NULL DEFAULT 0;

-- What a session's agent was rebuilt from after each run that changed it; gone with the run. A row of history has the run
-- that changed it last by then: -1 if none had, NULL if that is not known (from an older version).
CREATE TABLE agents_after (
    session INTEGER NOT NULL,
    run INTEGER NOT NULL,
    window BLOB,
    state BLOB,
    PRIMARY KEY (session, run)
) STRICT;
ALTER TABLE history ADD COLUMN agent INTEGER;

CREATE TRIGGER agent_of_run_gone AFTER DELETE ON runs BEGIN
    DELETE FROM agents_after WHERE session = OLD.session AND run = OLD.seq;
END;
CREATE TRIGGER stored_agent_after AFTER INSERT ON agents_after BEGIN
    UPDATE stored SET bytes = bytes + coalesce(length(NEW.window), 0) + coalesce(length(NEW.state), 0)
    WHERE principal = (SELECT principal FROM sessions WHERE no = NEW.session);
END;
CREATE TRIGGER stored_agent_after_gone AFTER DELETE ON agents_after BEGIN
    UPDATE stored SET bytes = bytes - coalesce(length(OLD.window), 0) - coalesce(length(OLD.state), 0)
    WHERE principal = (SELECT principal FROM sessions WHERE no = OLD.session);
END;
