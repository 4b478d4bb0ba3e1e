"""Recording a training loop of one's own: ``rhotrace.record`` around any PyTorch module and optimizer."""
