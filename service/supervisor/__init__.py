"""The supervisor: starts the processes of a farm on one machine, restarts them, and leaves nothing behind."""
