-- The trace that the request for a run belongs to, as its W3C headers by name; NULL: none.
ALTER TABLE runs ADD COLUMN trace BLOB;
