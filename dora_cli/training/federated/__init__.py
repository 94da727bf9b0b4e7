"""Federated training: what a server makes of the factors that clients send."""
