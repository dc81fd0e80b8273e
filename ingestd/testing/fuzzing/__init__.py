"""Coverage-guided fuzzing of whatever reads bytes that others wrote: `python -m ingestd.testing.fuzzing`, `scripts/fuzz`."""
