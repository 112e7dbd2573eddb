"""What shows a run: rows of numbers as tables, charts, and the page that is made of them."""
