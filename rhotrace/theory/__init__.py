"""The memo's equations without data: statements, norm dynamics, the step identity, linearised SGD."""
