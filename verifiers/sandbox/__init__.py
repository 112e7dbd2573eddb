"""Running a candidate's code so that it can neither harm nor deceive; nothing else here starts processes."""
