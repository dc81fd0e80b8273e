"""Durable ingest of IQ buffers from SDR nodes into S3-compatible object storage."""

__all__ = ["__version__"]

__version__ = "0.1.0"
