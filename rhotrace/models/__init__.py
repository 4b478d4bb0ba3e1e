"""What is trained: datasets, networks, initial weights, losses, optimizers and minibatches."""
