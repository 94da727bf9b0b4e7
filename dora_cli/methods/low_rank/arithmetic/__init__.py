"""The products that an adapter adds to its frozen linear map, and what drops out of their inputs."""
