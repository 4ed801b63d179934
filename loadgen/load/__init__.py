"""Load generator: an open-loop schedule, the accounting of the answers, the shell that drives the sockets, and the report."""
