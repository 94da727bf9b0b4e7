"""Where the runs of an experiment are made: worker processes of this machine, or those of a Ray cluster."""
