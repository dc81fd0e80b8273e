"""The processes of the daemon."""
