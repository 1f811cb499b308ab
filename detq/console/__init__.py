"""What the command line shows: progress on stderr, tables on stdout, results as JSON."""
