"""What the gradient engine is made of; `mtjax.training.gradients` is its front."""
