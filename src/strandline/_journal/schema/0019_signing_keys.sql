-- What only servers over this journal know, and sign with. Each is drawn by the server that first wants it; copies of a
-- journal into another one have others.
CREATE TABLE signing_keys (
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
