"""Offline evaluation: the recommender in one process, on data sets, by published protocols."""
