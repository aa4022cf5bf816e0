"""The functions behind the commands, shared by the command line and the Python API."""
