"""The journal's conversations as the files of Strands' `FileSessionManager`, for programs that read those."""
