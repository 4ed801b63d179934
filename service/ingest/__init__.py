"""Ingest: takes events from clients, keeps account of them, has them processed by workers and returns the decisions.

`credit`, `dispatch`, `ledger`, `runs` are pure state machines (time is an argument, no sockets); `server` is the shell around them.
"""
