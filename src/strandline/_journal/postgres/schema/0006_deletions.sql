-- Only an addition: servers of the schema before may be alive meanwhile. They note no deletions.

-- When sessions were deleted (seconds since the epoch), for about an hour: a request for a run that may have been accepted
-- and has ended before must not be sent again as if it were new.
CREATE TABLE deletions (
    principal text COLLATE "C" NOT NULL,
    session_id text COLLATE "C" NOT NULL,
    at float8 NOT NULL,
    PRIMARY KEY (principal, session_id)
);
CREATE INDEX deletions_by_time ON deletions (at);
