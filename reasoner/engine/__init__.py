"""What draws tokens on servers: the same protocol as the engine in this process, over HTTP."""
