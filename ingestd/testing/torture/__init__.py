"""Torture: a real daemon, a real MinIO behind a proxy that breaks requests, nodes that ask for confirmation, and kills.

`scripts/torture` runs it. Whoever counts stands outside: `sender` writes down what it issues before it sends it, and
`oracle` reads the bucket past the proxy, so that nothing that the daemon says about itself is needed as proof.
"""
