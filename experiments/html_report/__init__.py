"""One self-contained HTML page of results, for people who want to look."""
