"""Training: the state, the step, the loop, stages, checkpoints and metric writers."""
