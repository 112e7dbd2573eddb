"""What commands do that are more than parse, config and one call; reasoner/cli.py names them."""
