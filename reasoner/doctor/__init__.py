"""Before a run: what in its config, model, data or machine will spoil it, each with its line of the config and the remedy."""
