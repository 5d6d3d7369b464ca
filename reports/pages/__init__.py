"""HTML pages: one file, nothing fetched."""
