"""Programs that use an exported folder as the other library's documentation says, in a process that knows nothing of etude."""
