"""RhoTrace: the norm dynamics of deep ReLU networks under the square loss, recorded at every step."""
