"""Small problems in T variables, solved on the device inside jit: fixed shapes, float32 or float64."""
from mtjax.optim.solvers.simplex import project_simplex
