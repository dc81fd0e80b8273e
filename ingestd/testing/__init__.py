"""Doubles and drivers that users and our own tests share: stores, servers, daemons, simulated nodes.

Import what you need from its module; this package imports nothing by itself, because each part has its own needs.
"""
