"""Files of sessions: uploaded, listed, named in inputs, deleted, and expired.

A file's bytes are in a `FileStore`, its record in the journal, which decides: bytes without a record do not count.
"""

from strandline._engine.files.files import File, FilePage, Files

__all__ = ["File", "FilePage", "Files"]
