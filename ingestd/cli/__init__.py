"""The commands `ingestd` and `ingestctl`."""
