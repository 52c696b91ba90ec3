-- What a run has asked a person, as long as the round is open at the end of its session's history. Until then the session
-- waits for an answer; answer is the sequence of the run that gives it, NULL while there is none.
CREATE TABLE questions (
    session INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    until REAL NOT NULL,
    answer INTEGER,
    question BLOB NOT NULL
) STRICT;

-- What became of input requests that are not open any more ('answered' or 'dismissed'); they go with the run that asked.
CREATE TABLE closed_requests (
    session INTEGER NOT NULL,
    id TEXT NOT NULL,
    run INTEGER NOT NULL,
    closed TEXT NOT NULL,
    PRIMARY KEY (session, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX closed_requests_of ON closed_requests (run);
