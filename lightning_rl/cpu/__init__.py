"""What exists only for the speed of a CPU; each operator stands beside the plain one that it equals."""
