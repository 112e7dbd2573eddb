"""Numbers about answers and scores: pass@k, votes, intervals, ranking and calibration. numpy alone."""
