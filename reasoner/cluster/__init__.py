"""A run's stages on the machines of a Ray cluster: workers of data stages, servers, and ranks of trainers."""
