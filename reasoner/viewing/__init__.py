"""`reasoner view`: runs as a local page to look at, while they train and after. It reads and never writes."""
