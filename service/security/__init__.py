"""Who may talk to a farm: tokens of the HTTP API, keys of ZeroMQ peers, addresses that need them (docs/security.md)."""
