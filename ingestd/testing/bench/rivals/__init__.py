"""What ingestd is measured against, each a process of its own that reads its order from standard input."""
