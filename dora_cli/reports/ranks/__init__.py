"""What ``dora ranks`` shows: the table of ranks and the other views of a run's budget."""
