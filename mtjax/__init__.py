"""mtjax: a JAX research framework for multitask models."""
