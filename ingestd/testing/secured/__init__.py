"""`scripts/secured`: what keys, TLS and bounds cost, and what attacks on memory cost the daemon.

`costs` sets runs with and without against each other, `attacks` is the list of attacks, `trial` tries one on a real
daemon and looks from outside what became of it, `report` makes the tables.
"""
