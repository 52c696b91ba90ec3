-- When a run queues that is to wait for a time (seconds since the epoch); NULL: when it is accepted. Until then it is in
-- lane 4, and urgency is 8 times that in milliseconds, and its priority; then it gets another seq.
ALTER TABLE runs ADD COLUMN not_before REAL;
