-- When the last row of its history was written: since then a session in which nothing goes on is at rest. NULL: no run of
-- it has ended. Written with `last`, and in no index, which each end of a run would have to move a session in.
ALTER TABLE sessions ADD COLUMN rests_since REAL;

-- Of a session whose last run is forgotten, or was imported, nobody knows when that was: it counts as of now.
UPDATE sessions SET rests_since = coalesce(
    (SELECT ended_at FROM history JOIN runs ON runs.seq = history.run WHERE history.no = sessions.last),
    CAST(strftime('%s', 'now') AS REAL)
) WHERE last IS NOT NULL;
