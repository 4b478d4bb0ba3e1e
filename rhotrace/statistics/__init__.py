"""Estimates of one series: intervals, autocorrelation times, extremes for drawing."""
