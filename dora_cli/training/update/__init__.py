"""What a step does to all that trains, once its gradients are there."""
