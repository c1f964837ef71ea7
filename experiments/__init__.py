"""The command line, and one file per figure or table."""
