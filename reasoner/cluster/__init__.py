"""Data stages on the machines of a Ray cluster: workers take the parts that ranks would, by their numbers."""
