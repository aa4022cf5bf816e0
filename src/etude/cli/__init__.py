"""The command line: parse, compose, check, call."""
