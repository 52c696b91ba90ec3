-- Files that callers have uploaded into their sessions: their records, with how many bytes of each are kept beside the
-- journal. A file that a run names (`named`) is kept as long as its session. The principal is that of the session.
-- A session that was copied has those that its source's runs name under the same ids.
CREATE TABLE files (
    session INTEGER NOT NULL,
    id TEXT NOT NULL,
    principal TEXT NOT NULL,
    size INTEGER NOT NULL,
    at REAL NOT NULL,
    named INTEGER NOT NULL DEFAULT 0,
    record BLOB NOT NULL,
    PRIMARY KEY (session, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX files_unnamed ON files (at) WHERE named = 0;

CREATE TRIGGER stored_file AFTER INSERT ON files BEGIN
    UPDATE stored SET bytes = bytes + NEW.size + length(NEW.record) WHERE principal = NEW.principal;
END;
CREATE TRIGGER stored_file_gone AFTER DELETE ON files BEGIN
    UPDATE stored SET bytes = bytes - OLD.size - length(OLD.record) WHERE principal = OLD.principal;
END;
