"""One training loop for every network, loss and optimizer, with every step recorded."""
