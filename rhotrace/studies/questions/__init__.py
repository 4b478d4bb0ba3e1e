"""The studies that come with RhoTrace: one file for each question."""
