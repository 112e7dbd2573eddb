"""Running a candidate's code so that it can neither harm nor deceive. The only place that starts processes."""
