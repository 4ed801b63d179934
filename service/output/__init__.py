"""Output streams: accepted events in files of a lumisection and a stream, and over ZeroMQ to consumers."""
