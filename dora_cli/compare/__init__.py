"""Many runs as one experiment: which method, at which size, for a task, with statistics that stand."""
